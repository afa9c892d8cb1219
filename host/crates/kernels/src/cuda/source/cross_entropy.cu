// Log-probabilities of the targets of a chunk of logits, and in their place the gradients of their weighted sum.
//
// A block takes a row and goes over it twice: for the largest logit and the sum of exponentials, then for the gradients.
// What fits stays in shared memory in between, so that most of a row comes from memory once. Exponentials are powers of two.

// Elements that a thread takes at a time.
constexpr u32 GROUP = 8;
// Groups that a thread has on their way at a time.
constexpr u32 FLIGHT = 4;
// Threads of a block at most.
constexpr u32 MOST_THREADS = 1024;
// A target that is not learned.
constexpr u32 IGNORE = 0xffffffffu;
// Below any logit but minus infinity, and finite so that its difference to minus infinity is a number.
constexpr float LOWEST = -3.4e38f;

// The same in each thread; always the same order does not matter to a maximum.
DEVICE float block_max(float value, float* room) {
    value = warp_max(value);
    const u32 lane = threadIdx.x % WARP, warp = threadIdx.x / WARP, warps = blockDim.x / WARP;
    __syncthreads();
    if (lane == 0) room[warp] = value;
    __syncthreads();
    const float largest = warp_max(lane < warps ? room[lane] : LOWEST);
    __syncthreads();
    return largest;
}

// Logits z become cap * tanh(z / cap) where there is a cap above zero.
DEVICE float capped(float logit, float cap) {
    return cap > 0.0f ? cap * tanhf(logit / cap) : logit;
}

DEVICE Eight capped(Eight logits, float cap) {
    if (cap > 0.0f) {
        for (u32 i = 0; i < GROUP; i++) logits.at[i] = capped(logits.at[i], cap);
    }
    return logits;
}

// What a gradient of a capped logit is multiplied with for that of the logit before.
DEVICE float slope(float logit, float cap) {
    const float share = cap > 0.0f ? logit / cap : 0.0f;
    return 1.0f - share * share;
}

// The largest of some logits, and the sum of exp(logit - largest).
struct Exponentials {
    float largest;
    float total;

    DEVICE void raise(float logit) {
        const float raised = fmaxf(largest, logit);
        total *= exp2_fast((largest - raised) * LOG2_E);
        largest = raised;
    }

    DEVICE float of(float logit) const {
        return exp2_fast((logit - largest) * LOG2_E);
    }

    DEVICE void take(const Eight& logits) {
        float most = logits.at[0];
        for (u32 i = 1; i < GROUP; i++) most = fmaxf(most, logits.at[i]);
        raise(most);
        float sum = 0.0f;
        for (u32 i = 0; i < GROUP; i++) sum += of(logits.at[i]);
        total += sum;
    }

    DEVICE void take(float logit) {
        raise(logit);
        total += of(logit);
    }

    // Those of all threads of the block, the same in each.
    DEVICE void join(float* room) {
        raise(block_max(largest, room));
        total = block_sum(total, room);
    }
};

// log_probs[row] = logit of the target - log-sum-exp; with `want_gradients`, the logits of the slot become
// (softmax - onehot) * scale * weight. A target that is no column, as `IGNORE`, leaves log_probs alone and gives gradients of
// zero. Columns from v to ld are left alone.
//
// Slot i is row rows[i] of the batch, or first + i where `rows` is null. `kept` is the number of logits that dynamic shared
// memory has room for, a multiple of 8.
//
// Block: whole warps up to 1024. Grid: count. Dynamic shared memory: kept * sizeof(real) bytes. Best: kept = v rounded down
// to a multiple of 8 and 512 threads where two such blocks fit on a multiprocessor; else 1024 threads and what there is.
// Without gradients, kept = 0.
// logits real[count, ld], rows u32[count] or null, first, targets u32[n + 1], weights float[n + 1] or null, scale float[1],
// log_probs float[n], v, ld, kept, want_gradients, cap of the logits or 0
KERNEL_BOUNDS(MOST_THREADS, 1)
cross_entropy(real* logits, const u32* rows, u32 first, const u32* targets, const float* weights, const float* scale,
              float* log_probs, u32 v, u32 ld, u32 kept, u32 want_gradients, float cap) {
    DYNAMIC_SHARED(memory);
    __shared__ float room[WARP];
    Group* const held = reinterpret_cast<Group*>(memory);
    const u32 slot = blockIdx.x, batch_row = rows == nullptr ? first + slot : rows[slot], target = targets[batch_row];
    real* const row = logits + (u64)slot * ld;
    const u32 threads = blockDim.x, thread = threadIdx.x;
    // Aligned rows go by groups; what is left of them goes by elements, and rows that are not aligned do altogether.
    const u32 groups = ld % GROUP == 0 && is_aligned(logits) ? v / GROUP : 0, held_groups = kept / GROUP;
    if (target >= v) {
        if (want_gradients) {
            const Eight zeros = {};
            for (u32 group = thread; group < groups; group += threads) store8(row + (u64)group * GROUP, zeros);
            for (u32 column = groups * GROUP + thread; column < v; column += threads) row[column] = from_float<real>(0.0f);
        }
        return;
    }
    const float weight = weights == nullptr ? 1.0f : weights[batch_row], logit = capped(to_float(row[target]), cap);

    Exponentials exponentials = {LOWEST, 0.0f};
    for (u32 start = thread; start < groups; start += FLIGHT * threads) {
        Group flight[FLIGHT];
#pragma unroll
        for (u32 i = 0; i < FLIGHT; i++) {
            const u32 group = start + i * threads;
            if (group < groups) flight[i] = load_whole(row + (u64)group * GROUP);
        }
#pragma unroll
        for (u32 i = 0; i < FLIGHT; i++) {
            const u32 group = start + i * threads;
            if (group >= groups) continue;
            // Only this thread reads it again: no barrier is needed.
            if (group < held_groups) held[group] = flight[i];
            exponentials.take(capped(widened(flight[i]), cap));
        }
    }
    for (u32 column = groups * GROUP + thread; column < v; column += threads) {
        exponentials.take(capped(to_float(row[column]), cap));
    }
    exponentials.join(room);
    if (thread == 0) log_probs[batch_row] = logit - (exponentials.largest + logf(exponentials.total));
    if (!want_gradients) return;

    const float factor = *scale * weight, share = factor / exponentials.total;
    for (u32 group = thread; group < groups; group += threads) {
        real* const place = row + (u64)group * GROUP;
        Eight values = capped(widened(group < held_groups ? held[group] : load_whole(place)), cap);
        for (u32 i = 0; i < GROUP; i++) {
            values.at[i] = exponentials.of(values.at[i]) * share * slope(values.at[i], cap);
        }
        store8(place, values);
    }
    for (u32 column = groups * GROUP + thread; column < v; column += threads) {
        const float value = capped(to_float(row[column]), cap);
        row[column] = from_float<real>(exponentials.of(value) * share * slope(value, cap));
    }
    // The target's place is written again, by the thread that wrote it.
    const u32 writer = target < groups * GROUP ? target / GROUP % threads : (target - groups * GROUP) % threads;
    if (thread == writer) {
        row[target] = from_float<real>((exponentials.of(logit) / exponentials.total - 1.0f) * factor * slope(logit, cap));
    }
}

// Adds the sum over the targets of weight times negative log-probability to *loss, in double.
//
// Block: 1024. Grid: 1. No dynamic shared memory.
// log_probs float[n], targets u32[n], weights float[n] or null, n, loss double[1]
KERNEL_BOUNDS(MOST_THREADS, 1)
add_loss(const float* log_probs, const u32* targets, const float* weights, u32 n, double* loss) {
    __shared__ double room[WARP];
    double sum = 0.0;
    for (u32 i = threadIdx.x; i < n; i += blockDim.x) {
        if (targets[i] == IGNORE) continue;
        sum -= (double)log_probs[i] * (weights == nullptr ? 1.0 : (double)weights[i]);
    }
    sum = block_sum(sum, room);
    if (threadIdx.x == 0) *loss += sum;
}
