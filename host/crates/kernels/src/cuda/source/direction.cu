// Lengths of rows, and columns scaled by them: what DoRA has beside LoRA (Liu et al., "DoRA: weight-decomposed low-rank
// adaptation").

// Elements that a thread takes at a time.
constexpr u32 GROUP = 8;
// Threads of a block at most, of a loop over elements and of a sum.
constexpr u32 MOST_THREADS = 256;
// Columns that a block of `add_scaled_backward` takes, and the shares that it makes of the rows.
constexpr u32 SUM_COLUMNS = 32;
constexpr u32 SUM_SHARES = 16;

// value / norm, and 0 where there is no length to divide by.
DEVICE float over(float value, float norm) {
    return norm > 0.0f ? value / norm : 0.0f;
}

// norms = the lengths of the rows of w + added.
//
// Block: 256. Grid: one block per row. No dynamic shared memory.
// w real[rows, width], added float[rows, width], norms float[rows], width
KERNEL_BOUNDS(MOST_THREADS, 4)
row_norms(const real* w, const float* added, float* norms, u32 width) {
    __shared__ float room[WARP];
    const u64 first = (u64)blockIdx.x * width;
    float squares = 0.0f;
    for (u32 column = threadIdx.x; column < width; column += blockDim.x) {
        const float value = to_float(w[first + column]) + added[first + column];
        squares += value * value;
    }
    squares = block_sum(squares, room);
    if (threadIdx.x == 0) norms[blockIdx.x] = sqrtf(squares);
}

// y = beta * y + alpha * z * m / norms, column by column; m and norms are 1 where they are null. beta is 0 or 1: with 0, what
// y held is not looked at.
//
// Block: 256. Grid: ceil(rows * ceil(width / 8) / 256). No dynamic shared memory.
// z real[rows, stride], m float[width] or null, norms float[width] or null, y like z, rows, width, stride, alpha, beta
KERNEL_BOUNDS(MOST_THREADS, 4)
add_scaled(const real* z, const float* m, const float* norms, real* y, u32 rows, u32 width, u32 stride, float alpha,
           float beta) {
    const u32 groups = groups_of(width);
    const bool wide = width % GROUP == 0 && stride % GROUP == 0 && is_aligned(z) && is_aligned(y);
    for (u64 item = this_thread(); item < (u64)rows * groups; item += all_threads()) {
        const u32 row = (u32)item / groups, column = ((u32)item - row * groups) * GROUP, left = width - column;
        const u64 at = (u64)row * stride + column;
        const Eight values = wide ? load_group<true>(z + at, left) : load_group<false>(z + at, left);
        Eight sum = {};
        if (beta != 0.0f) sum = wide ? load_group<true>(y + at, left) : load_group<false>(y + at, left);
#pragma unroll
        for (u32 i = 0; i < GROUP; i++) {
            if (i >= left) continue;
            const float factor = m == nullptr ? 1.0f : over(m[column + i], norms[column + i]);
            sum.at[i] += alpha * factor * values.at[i];
        }
        if (wide) {
            store_group<true>(y + at, sum, left);
        } else {
            store_group<false>(y + at, sum, left);
        }
    }
}

// dm = beta * dm + alpha * (the sum over the rows of dy * z) / norms, and then z = dy * m / norms. With beta 0, what dm held is
// not looked at.
//
// Block: 512. Grid: ceil(width / 32). No dynamic shared memory.
// dy real[rows, stride], m float[width], norms float[width], z like dy, dm float[width], rows, width, stride, alpha, beta
KERNEL_BOUNDS(SUM_COLUMNS* SUM_SHARES, 1)
add_scaled_backward(const real* dy, const float* m, const float* norms, real* z, float* dm, u32 rows, u32 width, u32 stride,
                    float alpha, float beta) {
    __shared__ float shares[SUM_SHARES][SUM_COLUMNS];
    const u32 lane = threadIdx.x % SUM_COLUMNS, share = threadIdx.x / SUM_COLUMNS;
    const u32 column = blockIdx.x * SUM_COLUMNS + lane;
    float sum = 0.0f;
    if (column < width) {
        const float factor = over(m[column], norms[column]);
#pragma unroll 4
        for (u32 row = share; row < rows; row += SUM_SHARES) {
            const u64 at = (u64)row * stride + column;
            const float gradient = to_float(dy[at]);
            sum += gradient * to_float(z[at]);
            z[at] = from_float<real>(gradient * factor);
        }
    }
    shares[share][lane] = sum;
    __syncthreads();
    if (share != 0 || column >= width) return;
    for (u32 other = 1; other < SUM_SHARES; other++) sum += shares[other][lane];
    const float gradient = over(alpha * sum, norms[column]);
    dm[column] = beta == 0.0f ? gradient : beta * dm[column] + gradient;
}
