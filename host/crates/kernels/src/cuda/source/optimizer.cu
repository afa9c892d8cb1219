// The norm of the gradients, clipping, and AdamW over all segments of the weights in one launch.

// Elements that a thread takes at a time.
constexpr u32 GROUP = 8;

// Sums that stay on the device.
struct Accumulator {
    // Weighted sum of the losses.
    double loss;
    // Sum of the squares of the gradients.
    double squares;
    // What the gradients are multiplied by.
    float factor;
    // 1 where `squares` is finite.
    u32 finite;
};

// Constants of one step.
struct Step {
    float lr;
    float beta1;
    float beta2;
    float eps;
    float weight_decay;
    // 1 - beta1^t and sqrt(1 - beta2^t).
    float correction1;
    float correction2_sqrt;
};

// A stretch of trained weights with one rule of decay and one factor of the learning rate; offsets and length in elements.
struct Segment {
    u64 parameter;
    u64 gradient;
    u64 len;
    u32 decays;
    float rate;
};

constexpr u32 SUM_THREADS = 512;
// Groups that a thread has on their way at a time.
constexpr u32 FLIGHT = 4;

DEVICE float squares_of(const Eight& values) {
    float sum = 0.0f;
    for (u32 i = 0; i < GROUP; i++) sum += values.at[i] * values.at[i];
    return sum;
}

// partial[b] = the sum of squares of block b's elements: eight at a time in float, those sums in double.
//
// Block: 512. Grid: `blocks` of partial, the same each time for the same bits; best is 4 a multiprocessor. No dynamic shared
// memory.
// x float[len], partial double[blocks], len (64 bits)
KERNEL_BOUNDS(SUM_THREADS, 2) sum_of_squares(const float* x, double* partial, u64 len) {
    __shared__ double room[WARP];
    const u64 thread = (u64)blockIdx.x * blockDim.x + threadIdx.x, threads = (u64)gridDim.x * blockDim.x;
    const u64 groups = is_aligned(x) ? len / GROUP : 0;
    double sum = 0.0;
    for (u64 start = thread; start < groups; start += FLIGHT * threads) {
        Eight flight[FLIGHT];
#pragma unroll
        for (u32 i = 0; i < FLIGHT; i++) {
            const u64 group = start + i * threads;
            flight[i] = Eight();
            if (group < groups) flight[i] = load8(x + group * GROUP);
        }
#pragma unroll
        for (u32 i = 0; i < FLIGHT; i++) sum += (double)squares_of(flight[i]);
    }
    for (u64 i = groups * GROUP + thread; i < len; i += threads) sum += (double)(x[i] * x[i]);
    sum = block_sum(sum, room);
    if (threadIdx.x == 0) partial[blockIdx.x] = sum;
}

// *total += the sum of `partial`.
//
// Block: 512. Grid: 1. No dynamic shared memory.
// partial double[blocks], blocks, total double[1]
KERNEL_BOUNDS(SUM_THREADS, 1) sum_of_squares_finish(const double* partial, u32 blocks, double* total) {
    __shared__ double room[WARP];
    double sum = 0.0;
    for (u32 i = threadIdx.x; i < blocks; i += blockDim.x) sum += partial[i];
    sum = block_sum(sum, room);
    if (threadIdx.x == 0) *total += sum;
}

// Makes the factor that keeps the gradients within `max_norm`, as torch's `clip_grad_norm_` does, and 1 without it.
//
// Block: 1 thread. Grid: 1. No dynamic shared memory.
// accumulator Accumulator[1], max_norm (double), has_max
KERNEL clip(Accumulator* accumulator, double max_norm, u32 has_max) {
    const double squares = accumulator->squares;
    accumulator->factor = has_max ? (float)fmin(max_norm / (sqrt(squares) + 1e-6), 1.0) : 1.0f;
    // The difference is NaN for what is not finite.
    accumulator->finite = squares - squares == 0.0;
}

constexpr u32 ADAM_THREADS = 256;
// Elements of a tile: of one segment, a block's work.
constexpr u32 TILE = 4096;

// What is the same for all elements of a segment.
struct Rule {
    float factor;
    float first_share;
    float beta2;
    float second_share;
    float keep;
    float size;
    float correction2_sqrt;
    float eps;
};

// torch's order of operations (`torch/optim/adamw.py`, `_single_tensor_adamw`): decay, moments, then
// `p -= lr / c1 * m / (sqrt(v) / sqrt(c2) + eps)`.
DEVICE void update(const Rule& rule, float g, float& m, float& v, float& p) {
    const float gradient = g * rule.factor;
    m = m + rule.first_share * (gradient - m);
    v = rule.beta2 * v + rule.second_share * gradient * gradient;
    p = p * rule.keep - rule.size * m / (sqrtf(v) / rule.correction2_sqrt + rule.eps);
}

// One AdamW step of all segments. A block takes a tile: elements TILE * t up to TILE * (t + 1) of segment s, as far as the
// segment goes, where {s, t} is its entry of `tiles`. The host lists all tiles of all segments, once.
//
// Gradients, moments and master weights are indexed by the segment's gradient offset, params by its parameter offset. Where
// `master` is given, it is updated and params are its rounded values; else params are. Nothing is changed where the
// accumulator is not finite.
//
// Block: 256. Grid: any; best is tile_count. No dynamic shared memory.
// params real[], master float[] or null, gradients float[], exp_avg float[], exp_avg_sq float[], segments Segment[], tiles
// uint2[tile_count], tile_count, step Step[1], accumulator Accumulator[1]
KERNEL_BOUNDS(ADAM_THREADS, 3)
adamw(real* params, float* master, const float* gradients, float* exp_avg, float* exp_avg_sq, const Segment* segments,
      const uint2* tiles, u32 tile_count, const Step* step, const Accumulator* accumulator) {
    if (!accumulator->finite) return;
    const Step now = *step;
    const float factor = accumulator->factor;
    for (u32 tile = blockIdx.x; tile < tile_count; tile += gridDim.x) {
        const Segment segment = segments[tiles[tile].x];
        const u64 start = (u64)tiles[tile].y * TILE, rest = segment.len - start;
        const u32 len = rest < TILE ? (u32)rest : TILE;
        const float decay = segment.decays ? now.weight_decay : 0.0f, lr = now.lr * segment.rate;
        const Rule rule = {factor,
                           1.0f - now.beta1,
                           now.beta2,
                           1.0f - now.beta2,
                           1.0f - lr * decay,
                           lr / now.correction1,
                           now.correction2_sqrt,
                           now.eps};
        real* const p = params + segment.parameter + start;
        float* const exact = master == nullptr ? nullptr : master + segment.gradient + start;
        const float* const g = gradients + segment.gradient + start;
        float *const m = exp_avg + segment.gradient + start, *const v = exp_avg_sq + segment.gradient + start;
        const bool wide = is_aligned(p) && is_aligned(exact) && is_aligned(g) && is_aligned(m) && is_aligned(v);
        const u32 whole = wide ? len / GROUP * GROUP : 0;
        for (u32 at = threadIdx.x * GROUP; at < whole; at += blockDim.x * GROUP) {
            const Eight gradient = load8(g + at);
            Eight first = load8(m + at), second = load8(v + at);
            Eight weight = exact == nullptr ? load8(p + at) : load8(exact + at);
            for (u32 i = 0; i < GROUP; i++) update(rule, gradient.at[i], first.at[i], second.at[i], weight.at[i]);
            store8(m + at, first);
            store8(v + at, second);
            if (exact != nullptr) store8(exact + at, weight);
            store8(p + at, weight);
        }
        for (u32 at = whole + threadIdx.x; at < len; at += blockDim.x) {
            float first = m[at], second = v[at], weight = exact == nullptr ? to_float(p[at]) : exact[at];
            update(rule, g[at], first, second, weight);
            m[at] = first;
            v[at] = second;
            if (exact != nullptr) exact[at] = weight;
            p[at] = from_float<real>(weight);
        }
    }
}
