// RMSNorm, forward and backward (Zhang and Sennrich, "Root mean square layer normalization").
//
// A row is taken by a team: a warp where rows are short, else the block. A thread takes eight neighbouring elements at a
// time, and holds what it took in registers as it lies in memory, so that each row is read once.

// Elements that a thread takes at a time.
constexpr u32 GROUP = 8;
// Groups of a row that a thread holds.
constexpr u32 HELD = 4;
// Elements of the longest row that a warp takes.
constexpr u32 WARP_ROW = WARP * HELD * GROUP;
// Threads of a block at most: rows of 16384.
constexpr u32 MOST_THREADS = 512;

// The first `left` elements of a group, zeros after them.
#if defined(REAL_BF16)
DEVICE u32 load_pair(const real* source, u32 left) {
    return (left > 0 ? (u32)source[0].bits : 0u) | (left > 1 ? (u32)source[1].bits << 16 : 0u);
}

DEVICE Group load_part(const real* source, u32 left) {
    return make_uint4(load_pair(source, left), load_pair(source + 2, left > 2 ? left - 2 : 0),
                      load_pair(source + 4, left > 4 ? left - 4 : 0), load_pair(source + 6, left > 6 ? left - 6 : 0));
}
#else
DEVICE Group load_part(const real* source, u32 left) {
    return load_group<false>(source, left);
}
#endif

// The threads that share a row, and this thread's part of the row: groups `rank`, `rank + size`, and so on.
struct Team {
    u32 rank;
    u32 size;
    bool is_warp;

    // First element of the thread's group number `held`.
    DEVICE u32 column(u32 held) const {
        return (held * size + rank) * GROUP;
    }
};

DEVICE Team team_of(u32 h) {
    const bool is_warp = h <= WARP_ROW;
    Team team = {is_warp ? threadIdx.x % WARP : threadIdx.x, is_warp ? WARP : blockDim.x, is_warp};
    return team;
}

DEVICE float team_sum(const Team& team, float value, float* room) {
    return team.is_warp ? warp_sum(value) : block_sum(value, room);
}

// The thread's part of a row; zeros beyond the row. With `wide`, the row is aligned and of whole groups.
template <bool wide>
DEVICE void load_row(Group (&groups)[HELD], const Team& team, const real* row, u32 h) {
#pragma unroll
    for (u32 held = 0; held < HELD; held++) {
        const u32 column = team.column(held);
        groups[held] = Group();
        if (column < h) groups[held] = wide ? load_whole(row + column) : load_part(row + column, h - column);
    }
}

// `y = x * root * w` for the thread's part.
template <bool wide>
DEVICE void scale_row(const Group (&x)[HELD], float root, const Team& team, const real* w, real* y, u32 h) {
#pragma unroll
    for (u32 held = 0; held < HELD; held++) {
        const u32 column = team.column(held);
        if (column >= h) continue;
        const Eight values = widened(x[held]);
        const Eight weights = widened(wide ? load_whole(w + column) : load_part(w + column, h - column));
        Eight scaled;
        for (u32 i = 0; i < GROUP; i++) scaled.at[i] = values.at[i] * root * weights.at[i];
        store_group<wide>(y + column, scaled, h - column);
    }
}

template <bool wide>
DEVICE void forward_row(const Team& team, const real* x, const real* w, real* y, float* r, u32 h, float eps, float* room) {
    Group groups[HELD];
    load_row<wide>(groups, team, x, h);
    float squares = 0.0f;
#pragma unroll
    for (u32 held = 0; held < HELD; held++) {
        const Eight values = widened(groups[held]);
        for (u32 i = 0; i < GROUP; i++) squares += values.at[i] * values.at[i];
    }
    const float root = 1.0f / sqrtf(team_sum(team, squares, room) / (float)h + eps);
    if (team.rank == 0) *r = root;
    scale_row<wide>(groups, root, team, w, y, h);
}

// The row that a team takes, and how many rows all teams take at a time.
DEVICE u32 first_row(const Team& team) {
    return team.is_warp ? blockIdx.x * (blockDim.x / WARP) + threadIdx.x / WARP : blockIdx.x;
}

DEVICE u32 rows_at_a_time(const Team& team) {
    return team.is_warp ? gridDim.x * (blockDim.x / WARP) : gridDim.x;
}

// y = x * r * w with r = 1 / sqrt(mean(x^2) + eps).
//
// Block: whole warps, at least max(128, h / 32) threads, at most 512. Grid: any; best is one team per row, that is
// ceil(n / warps of a block) blocks for h <= 1024 and n beyond. No dynamic shared memory.
// x real[n, h], w real[h], y real[n, h], r float[n], n, h, eps
KERNEL_BOUNDS(MOST_THREADS, 2) rmsnorm(const real* x, const real* w, real* y, float* r, u32 n, u32 h, float eps) {
    __shared__ float room[WARP];
    const Team team = team_of(h);
    const bool wide = h % GROUP == 0 && is_aligned(x) && is_aligned(w) && is_aligned(y);
    for (u32 row = first_row(team); row < n; row += rows_at_a_time(team)) {
        const u64 at = (u64)row * h;
        if (wide) {
            forward_row<true>(team, x + at, w, y + at, r + row, h, eps, room);
        } else {
            forward_row<false>(team, x + at, w, y + at, r + row, h, eps, room);
        }
    }
}

// y = x * r * w from a kept r.
//
// Block, grid and shared memory as for `rmsnorm`.
// x real[n, h], w real[h], r float[n], y real[n, h], n, h
KERNEL_BOUNDS(MOST_THREADS, 2) rmsnorm_again(const real* x, const real* w, const float* r, real* y, u32 n, u32 h) {
    const Team team = team_of(h);
    const bool wide = h % GROUP == 0 && is_aligned(x) && is_aligned(w) && is_aligned(y);
    for (u32 row = first_row(team); row < n; row += rows_at_a_time(team)) {
        const u64 at = (u64)row * h;
        Group groups[HELD];
        if (wide) {
            load_row<true>(groups, team, x + at, h);
            scale_row<true>(groups, r[row], team, w, y + at, h);
        } else {
            load_row<false>(groups, team, x + at, h);
            scale_row<false>(groups, r[row], team, w, y + at, h);
        }
    }
}

// The gradients of one row: adds that of the input to `dx`, and the row's share of that of the weight to `dw`.
template <bool wide>
DEVICE void backward_row(Eight (&dw)[HELD], bool want_dw, const Team& team, const Group (&w)[HELD], const real* x,
                         const real* dy, real* dx, float root, u32 h, float* room) {
    Group inputs[HELD], outputs[HELD], sums[HELD];
    load_row<wide>(inputs, team, x, h);
    load_row<wide>(outputs, team, dy, h);
    load_row<wide>(sums, team, dx, h);
    float dot = 0.0f;
#pragma unroll
    for (u32 held = 0; held < HELD; held++) {
        const Eight input = widened(inputs[held]), output = widened(outputs[held]), weight = widened(w[held]);
        for (u32 i = 0; i < GROUP; i++) {
            const float product = output.at[i] * input.at[i];
            dot += product * weight.at[i];
            if (want_dw) dw[held].at[i] += product * root;
        }
    }
    const float slope = team_sum(team, dot, room) * root * root * root / (float)h;
#pragma unroll
    for (u32 held = 0; held < HELD; held++) {
        const u32 column = team.column(held);
        if (column >= h) continue;
        const Eight input = widened(inputs[held]), output = widened(outputs[held]), weight = widened(w[held]);
        Eight sum = widened(sums[held]);
        for (u32 i = 0; i < GROUP; i++) sum.at[i] += output.at[i] * weight.at[i] * root - input.at[i] * slope;
        store_group<wide>(dx + column, sum, h - column);
    }
}

template <bool wide>
DEVICE void backward_rows(Eight (&dw)[HELD], bool want_dw, const Team& team, const real* x, const real* w, const float* r,
                          const real* dy, real* dx, u32 first, u32 last, u32 h, float* room) {
    Group weights[HELD];
    load_row<wide>(weights, team, w, h);
    const u32 start = team.is_warp ? threadIdx.x / WARP : 0, stride = team.is_warp ? blockDim.x / WARP : 1;
    for (u32 row = first + start; row < last; row += stride) {
        const u64 at = (u64)row * h;
        backward_row<wide>(dw, want_dw, team, weights, x + at, dy + at, dx + at, r[row], h, room);
    }
}

// dx += dy * w * r - x * r^3 / h * sum(dy * w * x); with `partial`, block b puts the sum over its rows of dy * x * r into
// row b of it. Block b has rows n * b / blocks up to n * (b + 1) / blocks.
//
// Block: as for `rmsnorm`. Grid: `blocks` rows of `partial`; best is as many as are resident, 4 a multiprocessor for
// h <= 4096 and 512 / threads of a block, but at least 1, beyond; few rows per block cost more for `partial` than they gain.
// No dynamic shared memory.
// x real[n, h], w real[h], r float[n], dy real[n, h], dx real[n, h], partial float[blocks, h] or null, n, h
KERNEL_BOUNDS(MOST_THREADS, 1)
rmsnorm_backward(const real* x, const real* w, const float* r, const real* dy, real* dx, float* partial, u32 n, u32 h) {
    __shared__ float room[WARP];
    __shared__ float gathered[WARP_ROW];
    const Team team = team_of(h);
    const u32 first = (u32)((u64)n * blockIdx.x / gridDim.x), last = (u32)((u64)n * (blockIdx.x + 1) / gridDim.x);
    Eight dw[HELD] = {};
    if (h % GROUP == 0 && is_aligned(x) && is_aligned(w) && is_aligned(dy) && is_aligned(dx)) {
        backward_rows<true>(dw, partial != nullptr, team, x, w, r, dy, dx, first, last, h, room);
    } else {
        backward_rows<false>(dw, partial != nullptr, team, x, w, r, dy, dx, first, last, h, room);
    }
    if (partial == nullptr) return;
    float* const target = partial + (u64)blockIdx.x * h;
    // Warps that had rows of their own add up one after another; the last one writes.
    const u32 turns = team.is_warp ? blockDim.x / WARP : 1, turn = team.is_warp ? threadIdx.x / WARP : 0;
    for (u32 now = 0; now < turns; now++) {
        if (now == turn) {
#pragma unroll
            for (u32 held = 0; held < HELD; held++) {
#pragma unroll
                for (u32 i = 0; i < GROUP; i++) {
                    const u32 column = team.column(held) + i;
                    if (column >= h) continue;
                    const float sum = now == 0 ? dw[held].at[i] : gathered[column] + dw[held].at[i];
                    if (now + 1 == turns) {
                        target[column] = sum;
                    } else {
                        gathered[column] = sum;
                    }
                }
            }
        }
        __syncthreads();
    }
}

// Columns that a block of `rmsnorm_weight_gradient` adds up, and the shares that it makes of the rows.
constexpr u32 SUM_COLUMNS = 32;
constexpr u32 SUM_SHARES = 16;

// dw = beta * dw + the sum of the rows of `partial`; with beta 0, what dw held is not looked at.
//
// Block: 512. Grid: ceil(h / 32). No dynamic shared memory.
// partial float[blocks, h], dw float[h], blocks, h, beta
KERNEL_BOUNDS(SUM_COLUMNS* SUM_SHARES, 1)
rmsnorm_weight_gradient(const float* partial, float* dw, u32 blocks, u32 h, float beta) {
    __shared__ float shares[SUM_SHARES][SUM_COLUMNS];
    const u32 lane = threadIdx.x % SUM_COLUMNS, share = threadIdx.x / SUM_COLUMNS;
    const u32 column = blockIdx.x * SUM_COLUMNS + lane;
    float sum = 0.0f;
    if (column < h) {
#pragma unroll 8
        for (u32 row = share; row < blocks; row += SUM_SHARES) sum += partial[(u64)row * h + column];
    }
    shares[share][lane] = sum;
    __syncthreads();
    if (share != 0 || column >= h) return;
    for (u32 other = 1; other < SUM_SHARES; other++) sum += shares[other][lane];
    dw[column] = beta == 0.0f ? sum : beta * dw[column] + sum;
}
