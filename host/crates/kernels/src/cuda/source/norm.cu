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

// Norms of parts of rows: part i is part i % parts of row i / parts, and rows are `stride` elements apart. A weight is `w` and
// `offset`, and outputs are multiplied by `gain`.
struct Parts {
    u32 h;
    u32 parts;
    u32 stride;
    float offset;
    float gain;

    DEVICE u64 at(u32 part) const {
        return parts == 1 ? (u64)part * stride : (u64)(part / parts) * stride + part % parts * h;
    }

    DEVICE bool is_wide() const {
        return h % GROUP == 0 && stride % GROUP == 0;
    }
};

// `y = x * root * w` for the thread's part, and what is in `residual` where that is not null.
template <bool wide>
DEVICE void scale_row(const Group (&x)[HELD], float root, const Team& team, const Parts& parts, const real* w,
                      const real* residual, real* y) {
    const u32 h = parts.h;
#pragma unroll
    for (u32 held = 0; held < HELD; held++) {
        const u32 column = team.column(held);
        if (column >= h) continue;
        const Eight values = widened(x[held]);
        const Eight weights = widened(wide ? load_whole(w + column) : load_part(w + column, h - column));
        Eight scaled;
        for (u32 i = 0; i < GROUP; i++) scaled.at[i] = values.at[i] * root * (weights.at[i] + parts.offset);
        if (residual != nullptr) {
            const Eight added = load_group<wide>(residual + column, h - column);
            for (u32 i = 0; i < GROUP; i++) scaled.at[i] += added.at[i];
        }
        store_group<wide>(y + column, scaled, h - column);
    }
}

template <bool wide>
DEVICE void forward_row(const Team& team, const Parts& parts, const real* x, const real* w, const real* residual, real* y,
                        float* r, float eps, float* room) {
    const u32 h = parts.h;
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
    scale_row<wide>(groups, root * parts.gain, team, parts, w, residual, y);
}

// The row that a team takes, and how many rows all teams take at a time.
DEVICE u32 first_row(const Team& team) {
    return team.is_warp ? blockIdx.x * (blockDim.x / WARP) + threadIdx.x / WARP : blockIdx.x;
}

DEVICE u32 rows_at_a_time(const Team& team) {
    return team.is_warp ? gridDim.x * (blockDim.x / WARP) : gridDim.x;
}

// y = residual + gain * x * r * (w + offset) with r = 1 / sqrt(mean(x^2) + eps), for n parts of h elements.
//
// Block: whole warps, at least max(128, h / 32) threads, at most 512. Grid: any; best is one team per part, that is
// ceil(n / warps of a block) blocks for h <= 1024 and n beyond. No dynamic shared memory.
// x real[n / parts, stride], w real[h], residual like x or null, y like x, r float[n], n, h, parts, stride, eps, offset, gain
KERNEL_BOUNDS(MOST_THREADS, 2)
rmsnorm(const real* x, const real* w, const real* residual, real* y, float* r, u32 n, u32 h, u32 parts, u32 stride, float eps,
        float offset, float gain) {
    __shared__ float room[WARP];
    const Team team = team_of(h);
    const Parts all = {h, parts, stride, offset, gain};
    const bool wide = all.is_wide() && is_aligned(x) && is_aligned(w) && is_aligned(residual) && is_aligned(y);
    for (u32 part = first_row(team); part < n; part += rows_at_a_time(team)) {
        const u64 at = all.at(part);
        const real* const added = residual == nullptr ? nullptr : residual + at;
        if (wide) {
            forward_row<true>(team, all, x + at, w, added, y + at, r + part, eps, room);
        } else {
            forward_row<false>(team, all, x + at, w, added, y + at, r + part, eps, room);
        }
    }
}

// The same from a kept r, without a residual.
//
// Block, grid and shared memory as for `rmsnorm`.
// x real[n / parts, stride], w real[h], r float[n], y like x, n, h, parts, stride, offset, gain
KERNEL_BOUNDS(MOST_THREADS, 2)
rmsnorm_again(const real* x, const real* w, const float* r, real* y, u32 n, u32 h, u32 parts, u32 stride, float offset,
              float gain) {
    const Team team = team_of(h);
    const Parts all = {h, parts, stride, offset, gain};
    const bool wide = all.is_wide() && is_aligned(x) && is_aligned(w) && is_aligned(y);
    for (u32 part = first_row(team); part < n; part += rows_at_a_time(team)) {
        const u64 at = all.at(part);
        Group groups[HELD];
        if (wide) {
            load_row<true>(groups, team, x + at, h);
            scale_row<true>(groups, r[part] * gain, team, all, w, nullptr, y + at);
        } else {
            load_row<false>(groups, team, x + at, h);
            scale_row<false>(groups, r[part] * gain, team, all, w, nullptr, y + at);
        }
    }
}

// The gradients of one part: adds that of the input to `dx`, or puts it there where `dy` is the same, and the part's share of
// that of the weight to `dw`.
template <bool wide>
DEVICE void backward_row(Eight (&dw)[HELD], bool want_dw, const Team& team, const Parts& parts, const Group (&w)[HELD],
                         const real* x, const real* dy, real* dx, float root, float* room) {
    const u32 h = parts.h;
    const bool adds = dy != dx;
    const float scaled = root * parts.gain;
    Group inputs[HELD], outputs[HELD], sums[HELD];
    load_row<wide>(inputs, team, x, h);
    load_row<wide>(outputs, team, dy, h);
    if (adds) load_row<wide>(sums, team, dx, h);
    float dot = 0.0f;
#pragma unroll
    for (u32 held = 0; held < HELD; held++) {
        const Eight input = widened(inputs[held]), output = widened(outputs[held]), weight = widened(w[held]);
        for (u32 i = 0; i < GROUP; i++) {
            const float product = output.at[i] * input.at[i];
            dot += product * (weight.at[i] + parts.offset);
            if (want_dw) dw[held].at[i] += product * scaled;
        }
    }
    const float slope = team_sum(team, dot, room) * root * root * root / (float)h * parts.gain;
#pragma unroll
    for (u32 held = 0; held < HELD; held++) {
        const u32 column = team.column(held);
        if (column >= h) continue;
        const Eight input = widened(inputs[held]), output = widened(outputs[held]), weight = widened(w[held]);
        Eight sum = {};
        if (adds) sum = widened(sums[held]);
        for (u32 i = 0; i < GROUP; i++) {
            sum.at[i] += output.at[i] * (weight.at[i] + parts.offset) * scaled - input.at[i] * slope;
        }
        store_group<wide>(dx + column, sum, h - column);
    }
}

template <bool wide>
DEVICE void backward_rows(Eight (&dw)[HELD], bool want_dw, const Team& team, const Parts& parts, const real* x, const real* w,
                          const float* r, const real* dy, real* dx, u32 first, u32 last, float* room) {
    Group weights[HELD];
    load_row<wide>(weights, team, w, parts.h);
    const u32 start = team.is_warp ? threadIdx.x / WARP : 0, stride = team.is_warp ? blockDim.x / WARP : 1;
    for (u32 row = first + start; row < last; row += stride) {
        const u64 at = parts.at(row);
        backward_row<wide>(dw, want_dw, team, parts, weights, x + at, dy + at, dx + at, r[row], room);
    }
}

// dx += gain * (dy * w * r - x * r^3 / h * sum(dy * w * x)) with w that includes the offset, for n parts of h elements; where
// dy is dx, what it held is replaced. With `partial`, block b puts the sum over its parts of gain * dy * x * r into row b of it.
// Block b has parts n * b / blocks up to n * (b + 1) / blocks.
//
// Block: as for `rmsnorm`. Grid: `blocks` rows of `partial`; best is as many as are resident, 4 a multiprocessor for
// h <= 4096 and 512 / threads of a block, but at least 1, beyond; few rows per block cost more for `partial` than they gain.
// No dynamic shared memory.
// x real[n / parts, stride], w real[h], r float[n], dy like x, dx like x, partial float[blocks, h] or null, n, h, parts,
// stride, offset, gain
KERNEL_BOUNDS(MOST_THREADS, 1)
rmsnorm_backward(const real* x, const real* w, const float* r, const real* dy, real* dx, float* partial, u32 n, u32 h,
                 u32 parts, u32 stride, float offset, float gain) {
    __shared__ float room[WARP];
    __shared__ float gathered[WARP_ROW];
    const Team team = team_of(h);
    const u32 first = (u32)((u64)n * blockIdx.x / gridDim.x), last = (u32)((u64)n * (blockIdx.x + 1) / gridDim.x);
    const Parts all = {h, parts, stride, offset, gain};
    Eight dw[HELD] = {};
    if (all.is_wide() && is_aligned(x) && is_aligned(w) && is_aligned(dy) && is_aligned(dx)) {
        backward_rows<true>(dw, partial != nullptr, team, all, x, w, r, dy, dx, first, last, room);
    } else {
        backward_rows<false>(dw, partial != nullptr, team, all, x, w, r, dy, dx, first, last, room);
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
