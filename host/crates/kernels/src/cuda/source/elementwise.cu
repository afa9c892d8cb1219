// Loops over rows and elements: rotary positions, gated activations, dropout, gathered rows.
//
// The kernels are bound by memory. A thread takes a group of eight neighbouring elements: with the widest loads where
// addresses allow it, else one by one. Grids may be of any size; best is one group per thread.

// Elements that a thread takes at a time.
constexpr u32 GROUP = 8;
// Threads of a block at most.
constexpr u32 MOST_THREADS = 256;

// Copies a group, bit by bit.
DEVICE void copy_group(real* target, const real* source, bool whole, u32 left) {
    if (whole) {
        constexpr u32 PIECES = GROUP * sizeof(real) / sizeof(uint4);
        uint4 pieces[PIECES];
        for (u32 i = 0; i < PIECES; i++) pieces[i] = reinterpret_cast<const uint4*>(source)[i];
        for (u32 i = 0; i < PIECES; i++) reinterpret_cast<uint4*>(target)[i] = pieces[i];
        return;
    }
#pragma unroll
    for (u32 i = 0; i < GROUP; i++) {
        if (i < left) target[i] = source[i];
    }
}

// Where a group of a matrix is. Divisions of 64 bits take long; so many groups no matrix has.
struct Place {
    u32 row;
    u32 column;
    // Elements of the row from `column` on.
    u32 left;
};

DEVICE Place place_of(u64 item, u32 groups, u32 width) {
    const u32 row = (u32)item / groups, column = ((u32)item - row * groups) * GROUP;
    Place place = {row, column, width - column};
    return place;
}

template <bool whole>
DEVICE void rotate_group(real* x, const float* cosines, u32 half, float direction, u32 left) {
    const Eight a = load_group<whole>(x, left), b = load_group<whole>(x + half, left);
    const Eight cosine = load_group<whole>(cosines, left), sine = load_group<whole>(cosines + half, left);
    Eight first, second;
    for (u32 i = 0; i < GROUP; i++) {
        const float turned = sine.at[i] * direction;
        first.at[i] = a.at[i] * cosine.at[i] - b.at[i] * turned;
        second.at[i] = b.at[i] * cosine.at[i] + a.at[i] * turned;
    }
    store_group<whole>(x, first, left);
    store_group<whole>(x + half, second, left);
}

// The same of pairs that are neighbours; `x` is the first of them.
template <bool whole>
DEVICE void rotate_neighbours(real* x, const float* cosines, u32 half, float direction, u32 left) {
    const Eight cosine = load_group<whole>(cosines, left), sine = load_group<whole>(cosines + half, left);
#pragma unroll
    for (u32 part = 0; part < 2; part++) {
        const u32 before = part * GROUP, there = 2 * left > before ? 2 * left - before : 0;
        Eight values = load_group<whole>(x + before, there);
#pragma unroll
        for (u32 i = 0; i < GROUP; i += 2) {
            const u32 pair = (before + i) / 2;
            const float a = values.at[i], b = values.at[i + 1], turned = sine.at[pair] * direction;
            values.at[i] = a * cosine.at[pair] - b * turned;
            values.at[i + 1] = b * cosine.at[pair] + a * turned;
        }
        store_group<whole>(x + before, values, there);
    }
}

// Rotates the first `rotary_dim` elements of the first `heads` heads of each row in place; element i of their first half goes
// with element i of their second, or with `interleaved`, element 2i with element 2i + 1. A row of the table is rotary_dim / 2
// cosines, then as many sines. `direction` is 1, or -1 to turn back.
//
// Block: 256. Grid: ceil(n * heads * ceil(rotary_dim / 16) / 256); the product is below 2^32. No dynamic shared memory.
// x real[n, stride], positions u32[n], table float[positions, rotary_dim], n, heads, head_dim, rotary_dim, stride, direction,
// interleaved
KERNEL_BOUNDS(MOST_THREADS, 4)
rope(real* x, const u32* positions, const float* table, u32 n, u32 heads, u32 head_dim, u32 rotary_dim, u32 stride,
     float direction, u32 interleaved) {
    const u32 half = rotary_dim / 2, groups = groups_of(half), row_groups = heads * groups;
    const bool wide =
        half % GROUP == 0 && head_dim % GROUP == 0 && stride % GROUP == 0 && is_aligned(x) && is_aligned(table);
    for (u64 item = this_thread(); item < (u64)n * row_groups; item += all_threads()) {
        const u32 row = (u32)item / row_groups;
        const Place place = place_of((u32)item - row * row_groups, groups, half);
        real* const head = x + (u64)row * stride + place.row * head_dim;
        const float* const cosines = table + (u64)positions[row] * rotary_dim + place.column;
        if (interleaved != 0) {
            real* const pairs = head + 2 * place.column;
            if (wide) {
                rotate_neighbours<true>(pairs, cosines, half, direction, GROUP);
            } else {
                rotate_neighbours<false>(pairs, cosines, half, direction, place.left);
            }
            continue;
        }
        real* const pair = head + place.column;
        if (wide) {
            rotate_group<true>(pair, cosines, half, direction, GROUP);
        } else {
            rotate_group<false>(pair, cosines, half, direction, place.left);
        }
    }
}

DEVICE float sigmoid(float x) {
    return 1.0f / (1.0f + exp2_fast(-x * LOG2_E));
}

// The activations of feed-forward layers, by number.
constexpr u32 GELU_TANH = 1, RELU2 = 2;

// An activation and the slope of it.
struct Activated {
    float value;
    float slope;
};

// x * sigmoid(x), or x / 2 * (1 + tanh(sqrt(2 / pi) * (x + 0.044715 x^3))), or the square of what of x is above zero.
DEVICE Activated activated(float x, u32 activation) {
    Activated result;
    if (activation == RELU2) {
        const float above = x < 0.0f ? 0.0f : x;
        result.value = above * above;
        result.slope = 2.0f * above;
    } else if (activation == GELU_TANH) {
        constexpr float ROOT = 0.7978846f, CUBE = 0.044715f;
        const float t = tanhf(ROOT * (x + CUBE * x * x * x));
        result.value = 0.5f * x * (1.0f + t);
        result.slope = 0.5f * (1.0f + t) + 0.5f * x * (1.0f - t * t) * ROOT * (1.0f + 3.0f * CUBE * x * x);
    } else {
        const float s = sigmoid(x);
        result.value = x * s;
        result.slope = s * (1.0f + x * (1.0f - s));
    }
    return result;
}

template <bool whole>
DEVICE void glu_group(const real* gate, const real* up, real* a, u32 activation, u32 left) {
    const Eight g = load_group<whole>(gate, left);
    Eight product;
    for (u32 i = 0; i < GROUP; i++) product.at[i] = activated(g.at[i], activation).value;
    if (activation != RELU2) {
        const Eight u = load_group<whole>(up, left);
        for (u32 i = 0; i < GROUP; i++) product.at[i] *= u.at[i];
    }
    store_group<whole>(a, product, left);
}

// a = act(g) * u, where a row of `gu` is ffn gates, then ffn ups; or of RELU2, which has no gates, a = act(u) of a row of ups.
//
// Block: 256. Grid: ceil(n * ceil(ffn / 8) / 256); the product is below 2^32. No dynamic shared memory.
// gu real[n, 2 * ffn] or real[n, ffn], a real[n, ffn], n, ffn, activation
KERNEL_BOUNDS(MOST_THREADS, 4) glu(const real* gu, real* a, u32 n, u32 ffn, u32 activation) {
    const u32 groups = groups_of(ffn), inputs = activation == RELU2 ? ffn : 2 * ffn;
    const bool wide = ffn % GROUP == 0 && is_aligned(gu) && is_aligned(a);
    for (u64 item = this_thread(); item < (u64)n * groups; item += all_threads()) {
        const Place place = place_of(item, groups, ffn);
        const real* const gate = gu + (u64)place.row * inputs + place.column;
        real* const target = a + (u64)place.row * ffn + place.column;
        if (wide) {
            glu_group<true>(gate, gate + ffn, target, activation, GROUP);
        } else {
            glu_group<false>(gate, gate + ffn, target, activation, place.left);
        }
    }
}

template <bool whole>
DEVICE void glu_backward_group(const real* da, real* gate, real* up, u32 activation, u32 left) {
    const Eight d = load_group<whole>(da, left);
    Eight g = load_group<whole>(gate, left);
    if (activation == RELU2) {
        for (u32 i = 0; i < GROUP; i++) g.at[i] = d.at[i] * activated(g.at[i], activation).slope;
        store_group<whole>(gate, g, left);
        return;
    }
    Eight u = load_group<whole>(up, left);
    for (u32 i = 0; i < GROUP; i++) {
        const Activated act = activated(g.at[i], activation);
        g.at[i] = d.at[i] * u.at[i] * act.slope;
        u.at[i] = d.at[i] * act.value;
    }
    store_group<whole>(gate, g, left);
    store_group<whole>(up, u, left);
}

// Replaces `gu` by its gradient, given that of what `glu` makes of it.
//
// Block, grid and shared memory as for `glu`.
// da real[n, ffn], gu real[n, 2 * ffn] or real[n, ffn], n, ffn, activation
KERNEL_BOUNDS(MOST_THREADS, 4) glu_backward(const real* da, real* gu, u32 n, u32 ffn, u32 activation) {
    const u32 groups = groups_of(ffn), inputs = activation == RELU2 ? ffn : 2 * ffn;
    const bool wide = ffn % GROUP == 0 && is_aligned(da) && is_aligned(gu);
    for (u64 item = this_thread(); item < (u64)n * groups; item += all_threads()) {
        const Place place = place_of(item, groups, ffn);
        const real* const d = da + (u64)place.row * ffn + place.column;
        real* const gate = gu + (u64)place.row * inputs + place.column;
        if (wide) {
            glu_backward_group<true>(d, gate, gate + ffn, activation, GROUP);
        } else {
            glu_backward_group<false>(d, gate, gate + ffn, activation, place.left);
        }
    }
}

// xIELU of one layer: what its four weights come to.
struct Curve {
    // Factors above and below zero.
    float above;
    float below;
    float beta;
    float eps;
};

DEVICE float softplus(float x) {
    return x > 20.0f ? x : log1pf(expf(x));
}

DEVICE Curve curve_of(const real* weights) {
    Curve curve;
    curve.beta = to_float(weights[2]);
    curve.eps = to_float(weights[3]);
    curve.above = softplus(to_float(weights[0]));
    curve.below = curve.beta + softplus(to_float(weights[1]));
    return curve;
}

DEVICE float xielu_of(const Curve& curve, float x) {
    if (x > 0.0f) return curve.above * x * x + curve.beta * x;
    return (expm1f(x < curve.eps ? x : curve.eps) - x) * curve.below + curve.beta * x;
}

template <bool whole>
DEVICE void xielu_group(const Curve& curve, const real* u, real* a, u32 left) {
    Eight values = load_group<whole>(u, left);
    for (u32 i = 0; i < GROUP; i++) values.at[i] = xielu_of(curve, values.at[i]);
    store_group<whole>(a, values, left);
}

// a = xielu(u): p x^2 + beta x above zero, (beta + q) (e^min(x, eps) - 1 - x) + beta x below; the weights are what softplus
// makes p and q of, beta, eps.
//
// Block: 256. Grid: ceil(len / 2048). No dynamic shared memory.
// weights real[4], u real[len], a real[len], len (64 bits)
KERNEL_BOUNDS(MOST_THREADS, 4) xielu(const real* weights, const real* u, real* a, u64 len) {
    const Curve curve = curve_of(weights);
    const bool wide = is_aligned(u) && is_aligned(a);
    for (u64 group = this_thread(); group * GROUP < len; group += all_threads()) {
        const u64 at = group * GROUP, left = len - at;
        if (wide && left >= GROUP) {
            xielu_group<true>(curve, u + at, a + at, GROUP);
        } else {
            xielu_group<false>(curve, u + at, a + at, left < GROUP ? left : GROUP);
        }
    }
}

// Sums over elements, of what the gradients of the two factors are made of.
struct FactorSums {
    float above;
    float below;
};

template <bool whole>
DEVICE void xielu_backward_group(const Curve& curve, const real* da, real* u, FactorSums& sums, u32 left) {
    const Eight d = load_group<whole>(da, left);
    Eight values = load_group<whole>(u, left);
    for (u32 i = 0; i < GROUP; i++) {
        const float x = values.at[i];
        float slope;
        if (x > 0.0f) {
            slope = 2.0f * curve.above * x;
            sums.above += d.at[i] * x * x;
        } else {
            const float bent = expm1f(x < curve.eps ? x : curve.eps);
            slope = curve.below * (x < curve.eps ? bent : -1.0f);
            sums.below += d.at[i] * (bent - x);
        }
        values.at[i] = d.at[i] * (slope + curve.beta);
    }
    store_group<whole>(u, values, left);
}

// Replaces `u` by its gradient, given that of xielu(u); with `sums`, row i puts the gradients of the first two weights that it
// gives into sums[i] and sums[n + i].
//
// Block: 256. Grid: n. No dynamic shared memory.
// weights real[4], da real[n, ffn], u real[n, ffn], sums float[2, n] or null, n, ffn
KERNEL_BOUNDS(MOST_THREADS, 4) xielu_backward(const real* weights, const real* da, real* u, float* sums, u32 n, u32 ffn) {
    __shared__ float room[WARP];
    const Curve curve = curve_of(weights);
    const bool wide = ffn % GROUP == 0 && is_aligned(da) && is_aligned(u);
    const u64 row = (u64)blockIdx.x * ffn;
    FactorSums own = {0.0f, 0.0f};
    for (u32 group = threadIdx.x; group < groups_of(ffn); group += blockDim.x) {
        const u32 column = group * GROUP;
        if (wide) {
            xielu_backward_group<true>(curve, da + row + column, u + row + column, own, GROUP);
        } else {
            xielu_backward_group<false>(curve, da + row + column, u + row + column, own, ffn - column);
        }
    }
    if (sums == nullptr) return;
    const float above = block_sum(own.above, room), below = block_sum(own.below, room);
    if (threadIdx.x != 0) return;
    sums[blockIdx.x] = above * sigmoid(to_float(weights[0]));
    sums[n + blockIdx.x] = below * sigmoid(to_float(weights[1]));
}

// x *= factor.
//
// Block: 256. Grid: ceil(len / 2048). No dynamic shared memory.
// x real[len], len (64 bits), factor
KERNEL_BOUNDS(MOST_THREADS, 4) scale(real* x, u64 len, float factor) {
    const bool wide = is_aligned(x);
    for (u64 group = this_thread(); group * GROUP < len; group += all_threads()) {
        const u64 at = group * GROUP, left = len - at;
        const bool whole = wide && left >= GROUP;
        Eight values = whole ? load_group<true>(x + at, GROUP) : load_group<false>(x + at, left < GROUP ? left : GROUP);
        for (u32 i = 0; i < GROUP; i++) values.at[i] *= factor;
        if (whole) {
            store_group<true>(x + at, values, GROUP);
        } else {
            store_group<false>(x + at, values, left < GROUP ? left : GROUP);
        }
    }
}

// Copies the first `width` elements of n rows that are `stride` elements apart.
//
// Block: 256. Grid: ceil(n * ceil(width / 8) / 256); the product is below 2^32. No dynamic shared memory.
// source real[n, stride], target real[n, stride], n, width, stride
KERNEL_BOUNDS(MOST_THREADS, 4) copy_columns(const real* source, real* target, u32 n, u32 width, u32 stride) {
    const u32 groups = groups_of(width);
    const bool wide = width % GROUP == 0 && stride % GROUP == 0 && is_aligned(source) && is_aligned(target);
    for (u64 item = this_thread(); item < (u64)n * groups; item += all_threads()) {
        const Place place = place_of(item, groups, width);
        const u64 at = (u64)place.row * stride + place.column;
        copy_group(target + at, source + at, wide, place.left);
    }
}

// Four random words of a stream at a place: Philox4x32-10, bit by bit that of `rng.rs`.
DEVICE uint4 philox(u64 seed, u64 stream, u64 index) {
    constexpr u32 ROUNDS = 10, MULTIPLIER_0 = 0xD2511F53u, MULTIPLIER_1 = 0xCD9E8D57u, WEYL_0 = 0x9E3779B9u,
                  WEYL_1 = 0xBB67AE85u;
    uint4 counter = make_uint4((u32)index, (u32)(index >> 32), (u32)stream, (u32)(stream >> 32));
    u32 key_0 = (u32)seed, key_1 = (u32)(seed >> 32);
#pragma unroll
    for (u32 round = 0; round < ROUNDS; round++) {
        const u64 a = (u64)MULTIPLIER_0 * counter.x, b = (u64)MULTIPLIER_1 * counter.z;
        counter = make_uint4((u32)(b >> 32) ^ counter.y ^ key_0, (u32)b, (u32)(a >> 32) ^ counter.w ^ key_1, (u32)a);
        key_0 += WEYL_0;
        key_1 += WEYL_1;
    }
    return counter;
}

// `value` times `keep`, or zero where the word says that it is dropped.
DEVICE float dropped(float value, u32 word, float probability, float keep) {
    constexpr float UNIT = 1.0f / 16777216.0f;
    return (float)(word >> 8) * UNIT < probability ? 0.0f : value * keep;
}

template <bool whole>
DEVICE void dropout_group(const real* x, real* y, u64 group, u64 seed, u64 stream, float probability, bool add, u32 left) {
    const Eight values = load_group<whole>(x, left);
    Eight sums = {};
    if (add) sums = load_group<whole>(y, left);
    const float keep = 1.0f / (1.0f - probability);
    const uint4 first = philox(seed, stream, 2 * group), second = philox(seed, stream, 2 * group + 1);
    const u32 words[GROUP] = {first.x, first.y, first.z, first.w, second.x, second.y, second.z, second.w};
#pragma unroll
    for (u32 i = 0; i < GROUP; i++) sums.at[i] += dropped(values.at[i], words[i], probability, keep);
    store_group<whole>(y, sums, left);
}

template <bool whole>
DEVICE void noise_group(real* x, u64 group, u32 h, u64 seed, u64 stream, const float* sizes, u32 left) {
    constexpr float UNIT = 1.0f / 16777216.0f;
    Eight values = load_group<whole>(x, left);
    const uint4 first = philox(seed, stream, 2 * group), second = philox(seed, stream, 2 * group + 1);
    const u32 words[GROUP] = {first.x, first.y, first.z, first.w, second.x, second.y, second.z, second.w};
#pragma unroll
    for (u32 i = 0; i < GROUP; i++) {
        if (i < left) values.at[i] += (2.0f * ((float)(words[i] >> 8) * UNIT) - 1.0f) * sizes[(group * GROUP + i) / h];
    }
    store_group<whole>(x, values, left);
}

// x[i] += a number that is uniform within -sizes[i / h]..sizes[i / h], which word i of the stream says.
//
// Block: 256. Grid: ceil(len / 2048). No dynamic shared memory.
// x real[len], len (64 bits), h, seed (64 bits), stream (64 bits), pass u64[1], of which the stream has the bits too, sizes
// float[len / h]
KERNEL_BOUNDS(MOST_THREADS, 4)
noise(real* x, u64 len, u32 h, u64 seed, u64 stream, const u64* pass, const float* sizes) {
    stream ^= *pass;
    const bool wide = is_aligned(x);
    for (u64 group = this_thread(); group * GROUP < len; group += all_threads()) {
        const u64 at = group * GROUP, left = len - at;
        if (wide && left >= GROUP) {
            noise_group<true>(x + at, group, h, seed, stream, sizes, GROUP);
        } else {
            noise_group<false>(x + at, group, h, seed, stream, sizes, left < GROUP ? left : GROUP);
        }
    }
}

// y = x * mask / (1 - probability), or with `add`, y += that. Word i of the stream decides on element i. y may be x.
//
// Block: 256. Grid: ceil(len / 2048). No dynamic shared memory.
// x real[len], y real[len], len (64 bits), seed (64 bits), stream (64 bits), pass u64[1], of which the stream has the bits
// too, probability, add
KERNEL_BOUNDS(MOST_THREADS, 4)
dropout(const real* x, real* y, u64 len, u64 seed, u64 stream, const u64* pass, float probability, u32 add) {
    stream ^= *pass;
    const bool wide = is_aligned(x) && is_aligned(y);
    for (u64 group = this_thread(); group * GROUP < len; group += all_threads()) {
        const u64 at = group * GROUP, left = len - at;
        if (wide && left >= GROUP) {
            dropout_group<true>(x + at, y + at, group, seed, stream, probability, add != 0, GROUP);
        } else {
            dropout_group<false>(x + at, y + at, group, seed, stream, probability, add != 0, left < GROUP ? left : GROUP);
        }
    }
}

// Row i of `out` is row rows[i] of `x`; of row n there are zeros.
//
// Block: 256. Grid: ceil(count * ceil(h / 8) / 256); the product is below 2^32. No dynamic shared memory.
// x real[n, h], rows u32[count], out real[count, h], count, n, h
KERNEL_BOUNDS(MOST_THREADS, 4) gather_rows(const real* x, const u32* rows, real* out, u32 count, u32 n, u32 h) {
    const u32 groups = groups_of(h);
    const bool wide = h % GROUP == 0 && is_aligned(x) && is_aligned(out);
    for (u64 item = this_thread(); item < (u64)count * groups; item += all_threads()) {
        const Place place = place_of(item, groups, h);
        const u32 row = rows[place.row];
        real* const target = out + (u64)place.row * h + place.column;
        if (row < n) {
            copy_group(target, x + (u64)row * h + place.column, wide, place.left);
        } else {
            for (u32 i = 0; i < GROUP && i < place.left; i++) target[i] = from_float<real>(0.0f);
        }
    }
}

// Row rows[i] of `out` becomes row i of `source`; the rows differ but for row n, which there is not, and those that are not
// named stay as they are.
//
// Block, grid and shared memory as for `gather_rows`.
// source real[count, h], rows u32[count], out real[n, h], count, n, h
KERNEL_BOUNDS(MOST_THREADS, 4) scatter_rows(const real* source, const u32* rows, real* out, u32 count, u32 n, u32 h) {
    const u32 groups = groups_of(h);
    const bool wide = h % GROUP == 0 && is_aligned(source) && is_aligned(out);
    for (u64 item = this_thread(); item < (u64)count * groups; item += all_threads()) {
        const Place place = place_of(item, groups, h);
        const u32 row = rows[place.row];
        if (row >= n) continue;
        copy_group(out + (u64)row * h + place.column, source + (u64)place.row * h + place.column, wide, place.left);
    }
}
