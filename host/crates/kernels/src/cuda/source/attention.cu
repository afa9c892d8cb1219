// Causal attention inside documents, forward and backward, and attention through a cache of keys and values (Dao,
// "FlashAttention-2").
//
// Compiled for one shape: HEAD_DIM elements a head, HEADS heads of queries, KV_HEADS heads of keys and values. A row of `qkv`
// is the queries of all heads, then the keys, then the values; query head h goes with key head h / GROUP. Row i of a document
// sees rows 0..=i of it, the last `window` of them; a window of 2^32 - 1 is none. Where SCORE_CAP is defined, scaled scores s
// become SCORE_CAP * tanh(s / SCORE_CAP).
//
// Work comes in tiles of rows: uint4 {first row of the document in the batch, rows of the document, first row of the tile in
// the document, unused}. Every place of a result belongs to one block, which adds it up in an order that the shape and the
// tables fix, so that results never depend on timing. The backward pass therefore makes scores twice, for keys and for queries,
// where one pass with atomics would make them once.
//
// With bf16, products run on tensor cores and their sums are float; probabilities and their gradients are rounded to bf16
// for the products that they enter. With float everything is float.

static_assert(HEADS % KV_HEADS == 0, "each head of keys has as many heads of queries");
static_assert(HEAD_DIM <= 256, "heads fit in shared memory and registers");
#if defined(REAL_BF16)
static_assert(HEAD_DIM % 8 == 0, "heads are copied 16 bytes at a time");
#else
static_assert(HEAD_DIM % 2 == 0, "heads are read in pairs");
#endif

constexpr u32 GROUP = HEADS / KV_HEADS;
// Elements of a row of `qkv` and of `out`.
constexpr u32 PACKED = (HEADS + 2 * KV_HEADS) * HEAD_DIM;
constexpr u32 WIDTH = HEADS * HEAD_DIM;

// Rows of a tile of queries of `attention`.
constexpr u32 FORWARD_TILE = 128;
// Rows of a tile of queries of `attention_backward_queries`, and of a tile of keys of `attention_backward_keys`.
constexpr u32 QUERY_TILE = 64;
constexpr u32 KEY_TILE = 64;
static_assert(QUERY_TILE == KEY_TILE, "both passes of the backward pass share their code");
// Threads of a block, of the forward and of the backward pass.
constexpr u32 FORWARD_THREADS = HEAD_DIM <= 128 ? 128 : 256;
constexpr u32 BACKWARD_THREADS = HEAD_DIM <= 64 ? 64 : 128;

DEVICE float infinity() {
    return bits_to_float(0x7f800000u);
}

DEVICE u32 smaller(u32 a, u32 b) {
    return a < b ? a : b;
}

// Below any score but minus infinity, and finite so that its difference to minus infinity is a number.
constexpr float LOWEST = -3.0e38f;

// The first row that a row sees, and the row behind the last one that sees it.
DEVICE u32 first_seen(u32 row, u32 window) {
    return row < window ? 0 : row + 1 - window;
}

DEVICE u32 last_seeing(u32 row, u32 window, u32 rows) {
    return window < rows - row ? row + window : rows;
}

// Scores are products of queries and keys. Those that softmax takes are `capped` ones times `score_factor`. `uncapped` turns
// a gradient of those into one that, times the scale, is of the products; a score that is not seen is minus infinity and has
// a gradient of zero.
#if defined(SCORE_CAP)
DEVICE float capped(float score, float scale) {
    return SCORE_CAP * tanhf(score * scale / SCORE_CAP);
}

DEVICE float score_factor(float) {
    return 1.0f;
}

DEVICE float uncapped(float gradient, float score) {
    const float share = score / SCORE_CAP;
    return gradient == 0.0f ? 0.0f : gradient * (1.0f - share * share);
}
#else
DEVICE float capped(float score, float) {
    return score;
}

DEVICE float score_factor(float scale) {
    return scale;
}

DEVICE float uncapped(float gradient, float) {
    return gradient;
}
#endif

// A tile, and where its document's rows of one head are: queries of head `head`, keys and values of the head that goes with it.
struct Place {
    // First row of the document in the batch, its rows, and the tile's first row among them.
    u32 document;
    u32 rows;
    u32 start;

    template <typename T>
    DEVICE T* queries(T* qkv, u32 head) const {
        return qkv + (u64)document * PACKED + head * HEAD_DIM;
    }

    template <typename T>
    DEVICE T* keys(T* qkv, u32 kv_head) const {
        return qkv + (u64)document * PACKED + (HEADS + kv_head) * HEAD_DIM;
    }

    template <typename T>
    DEVICE T* values(T* qkv, u32 kv_head) const {
        return qkv + (u64)document * PACKED + (HEADS + KV_HEADS + kv_head) * HEAD_DIM;
    }

    // The same of `out` and `dout`.
    template <typename T>
    DEVICE T* outputs(T* out, u32 head) const {
        return out + (u64)document * WIDTH + head * HEAD_DIM;
    }

    // Place of a row's sum in `lse` and `delta`.
    DEVICE u64 sum(u32 row, u32 head) const {
        return (u64)(document + row) * HEADS + head;
    }
};

DEVICE Place place_of(const uint4* tiles) {
    const uint4 tile = tiles[blockIdx.x];
    Place place = {tile.x, tile.y, tile.z};
    return place;
}

#if defined(REAL_BF16)

// Tensor cores. A warp owns some rows and goes over tiles of the others, which all warps of the block share in shared memory.
// With g = lane / 4 and t = lane % 4, a thread has elements 2t, 2t + 1 of rows g and g + 8 of each 16x8 of a product
// (`mma_16816`), so that a product is, once rounded, the left operand of the next one.

// A head in shared memory, filled up with zeros to whole 16x16.
constexpr u32 DIM = (HEAD_DIM + 15) / 16 * 16;
// Steps of 16 elements along a head.
constexpr u32 STEPS = DIM / 16;
// Eights of a product's columns.
constexpr u32 EIGHTS = DIM / 8;
// Chunks of 16 bytes of a row. Eight rows below each other lie in different banks: where rows are of whole 128 bytes, chunks
// change places by row; else rows are an odd number of chunks apart.
constexpr u32 CHUNKS = DIM / 8;
constexpr bool SWIZZLED = CHUNKS % 8 == 0;
// Bytes from one row to the next.
constexpr u32 PITCH = (SWIZZLED ? CHUNKS : CHUNKS + 1) * 16;

DEVICE u32 chunk_place(u32 row, u32 chunk) {
    return row * PITCH + (SWIZZLED ? chunk ^ (row % 8) : chunk) * 16;
}

// Starts to copy rows `row` up to `row + count` of one head into a tile; zeros from row `rows` on.
template <u32 count, u32 stride, u32 threads>
DEVICE void copy_rows(unsigned char* tile, const real* source, u32 row, u32 rows) {
    constexpr u32 PIECES = count * CHUNKS;
#pragma unroll
    for (u32 i = 0; i < (PIECES + threads - 1) / threads; i++) {
        const u32 piece = i * threads + threadIdx.x, at = piece / CHUNKS, chunk = piece % CHUNKS;
        if (PIECES % threads != 0 && piece >= PIECES) break;
        const bool valid = row + at < rows && chunk * 8 < HEAD_DIM;
        cp_async16(tile + chunk_place(at, chunk), source + (u64)(row + at) * stride + chunk * 8, valid);
    }
}

// Where a lane reads 16x16 of a tile with `ldmatrix4`. With `down`, the second of the four 8x8 is below the first: so it is
// for a left operand, and, transposed, for a right operand that is summed over the tile's rows. Else it is beside the first:
// a right operand that is summed along the head.
template <bool down>
DEVICE u32 lane_place() {
    const u32 lane = threadIdx.x % WARP, second = lane / 8 % 2, third = lane / 16;
    return chunk_place(lane % 8 + (down ? second : third) * 8, down ? third : second);
}

// The address of the 16x16 that starts at row `row`, a multiple of 8, and column 16 * step.
DEVICE const unsigned char* matrices(const unsigned char* tile, u32 lane_place, u32 row, u32 step) {
    return tile + row * PITCH + (SWIZZLED ? (lane_place ^ (step % 4 * 32)) + step / 4 * 128 : lane_place + step * 32);
}

// Rows that a warp owns, M times 16 of them, as the left operand of products along the head, in registers.
template <u32 M>
struct HeldRows {
    u32 at[STEPS][M][4];

    // From row `row` on; zeros from row `rows` on.
    template <u32 stride>
    DEVICE void load(const real* source, u32 row, u32 rows) {
        const u32 g = threadIdx.x % WARP / 4, t = threadIdx.x % 4;
#pragma unroll
        for (u32 m = 0; m < M; m++) {
#pragma unroll
            for (u32 below = 0; below < 2; below++) {
                const u32 mine = row + m * 16 + below * 8 + g;
                const real* const place = source + (u64)mine * stride + 2 * t;
#pragma unroll
                for (u32 eight = 0; eight < EIGHTS; eight++) {
                    const bool valid = mine < rows && eight * 8 < HEAD_DIM;
                    at[eight / 2][m][eight % 2 * 2 + below] = valid ? *reinterpret_cast<const u32*>(place + eight * 8) : 0;
                }
            }
        }
    }

    DEVICE void get(u32 (&part)[M][4], u32 step) const {
#pragma unroll
        for (u32 m = 0; m < M; m++) {
#pragma unroll
            for (u32 i = 0; i < 4; i++) part[m][i] = at[step][m][i];
        }
    }
};

// The same from a tile.
template <u32 M>
struct TileRows {
    const unsigned char* tile;
    u32 lane;

    DEVICE void get(u32 (&part)[M][4], u32 step) const {
#pragma unroll
        for (u32 m = 0; m < M; m++) ldmatrix4(part[m], matrices(tile, lane, m * 16, step));
    }
};

// sums[16 M, 8 N] += rows of the warp times the first 8 N rows of a tile, along the head.
template <u32 M, u32 N, typename Left>
DEVICE void multiply_along(float (&sums)[M][N][4], const Left& left, const unsigned char* tile) {
    const u32 lane = lane_place<false>();
#pragma unroll
    for (u32 step = 0; step < STEPS; step++) {
        u32 a[M][4];
        left.get(a, step);
#pragma unroll
        for (u32 n = 0; n < N; n += 2) {
            u32 pair[4];
            ldmatrix4(pair, matrices(tile, lane, n * 8, step));
            const u32 first[2] = {pair[0], pair[1]}, second[2] = {pair[2], pair[3]};
#pragma unroll
            for (u32 m = 0; m < M; m++) {
                mma_16816(sums[m][n], a[m], first);
                mma_16816(sums[m][n + 1], a[m], second);
            }
        }
    }
}

// sums[16 M, DIM] += left[16 M, 16 K] times the first 16 K rows of a tile.
template <u32 M, u32 K>
DEVICE void multiply_across(float (&sums)[M][EIGHTS][4], const u32 (&left)[K][M][4], const unsigned char* tile) {
    const u32 lane = lane_place<true>();
#pragma unroll
    for (u32 k = 0; k < K; k++) {
#pragma unroll
        for (u32 step = 0; step < STEPS; step++) {
            u32 pair[4];
            ldmatrix4_transposed(pair, matrices(tile, lane, k * 16, step));
            const u32 first[2] = {pair[0], pair[1]}, second[2] = {pair[2], pair[3]};
#pragma unroll
            for (u32 m = 0; m < M; m++) {
                mma_16816(sums[m][2 * step], left[k][m], first);
                mma_16816(sums[m][2 * step + 1], left[k][m], second);
            }
        }
    }
}

// A product as the left operand of the next one, rounded.
template <u32 M, u32 N>
DEVICE void round_left(u32 (&left)[N / 2][M][4], const float (&product)[M][N][4]) {
#pragma unroll
    for (u32 n = 0; n < N; n++) {
#pragma unroll
        for (u32 m = 0; m < M; m++) {
            left[n / 2][m][n % 2 * 2] = pack2(product[m][n][0], product[m][n][1]);
            left[n / 2][m][n % 2 * 2 + 1] = pack2(product[m][n][2], product[m][n][3]);
        }
    }
}

// Writes the rows of a warp below row `rows`; factors[m][below] belongs to row 16 m + 8 below + g.
template <u32 M, u32 stride>
DEVICE void store_rows(real* target, const float (&sums)[M][EIGHTS][4], const float (&factors)[M][2], u32 row, u32 rows) {
    const u32 g = threadIdx.x % WARP / 4, t = threadIdx.x % 4;
#pragma unroll
    for (u32 m = 0; m < M; m++) {
#pragma unroll
        for (u32 below = 0; below < 2; below++) {
            const u32 mine = row + m * 16 + below * 8 + g;
            if (mine >= rows) continue;
            const float factor = factors[m][below];
            real* const place = target + (u64)mine * stride + 2 * t;
#pragma unroll
            for (u32 eight = 0; eight < HEAD_DIM / 8; eight++) {
                const float* const pair = sums[m][eight] + 2 * below;
                *reinterpret_cast<u32*>(place + eight * 8) = pack2(pair[0] * factor, pair[1] * factor);
            }
        }
    }
}

// 16s of rows of a warp, of the forward pass. Where registers are short of them, queries come from shared memory.
constexpr u32 FORWARD_M = FORWARD_TILE / (FORWARD_THREADS / WARP) / 16;
constexpr bool FORWARD_HOLDS = HEAD_DIM <= 64 || HEAD_DIM > 128;
// Keys of a tile.
constexpr u32 FORWARD_KEYS = HEAD_DIM <= 128 ? 64 : 32;
constexpr u32 FORWARD_BYTES = FORWARD_KEYS * PITCH;
// Tiles of keys and of values that take turns in shared memory.
constexpr u32 TURNS = 3;
// A row's exponentials are of differences to a score that is at most so many powers of two below its largest one. So the sums
// are seldom scaled anew.
constexpr float SLACK = 8.0f;

// What a warp knows of its rows while it goes over the keys.
struct Softmax {
    // Differences are to this score.
    float reference[FORWARD_M][2];
    // Sum of exponentials, of this thread's keys.
    float total[FORWARD_M][2];
    float output[FORWARD_M][EIGHTS][4];

    DEVICE void clear() {
#pragma unroll
        for (u32 m = 0; m < FORWARD_M; m++) {
            reference[m][0] = reference[m][1] = -infinity();
            total[m][0] = total[m][1] = 0.0f;
#pragma unroll
            for (u32 n = 0; n < EIGHTS; n++) output[m][n][0] = output[m][n][1] = output[m][n][2] = output[m][n][3] = 0.0f;
        }
    }

    // Makes exponentials of scores.
    template <u32 N>
    DEVICE void exponentials(float (&scores)[FORWARD_M][N][4], float factor) {
#pragma unroll
        for (u32 m = 0; m < FORWARD_M; m++) {
#pragma unroll
            for (u32 below = 0; below < 2; below++) {
                float most = -infinity();
#pragma unroll
                for (u32 n = 0; n < N; n++) {
                    most = fmaxf(most, fmaxf(scores[m][n][2 * below], scores[m][n][2 * below + 1]));
                }
                most = fmaxf(most, __shfl_xor_sync(0xffffffffu, most, 1));
                most = fmaxf(most, __shfl_xor_sync(0xffffffffu, most, 2));
                if ((most - reference[m][below]) * factor > SLACK) {
                    const float shrink = exp2_fast((reference[m][below] - most) * factor);
                    reference[m][below] = most;
                    total[m][below] *= shrink;
#pragma unroll
                    for (u32 n = 0; n < EIGHTS; n++) {
                        output[m][n][2 * below] *= shrink;
                        output[m][n][2 * below + 1] *= shrink;
                    }
                }
                const float offset = reference[m][below] * factor;
                float sum = 0.0f;
#pragma unroll
                for (u32 n = 0; n < N; n++) {
#pragma unroll
                    for (u32 i = 2 * below; i < 2 * below + 2; i++) {
                        scores[m][n][i] = exp2_fast(scores[m][n][i] * factor - offset);
                        sum += scores[m][n][i];
                    }
                }
                total[m][below] += sum;
            }
        }
    }
};

// Sets scores of keys that a query does not see to minus infinity. Queries are below each other and keys beside each other,
// or with `keys_below` the other way round.
template <bool keys_below, u32 M, u32 N>
DEVICE void mask_unseen(float (&scores)[M][N][4], u32 first_below, u32 first_beside, u32 window) {
    const u32 g = threadIdx.x % WARP / 4, t = threadIdx.x % 4;
#pragma unroll
    for (u32 m = 0; m < M; m++) {
#pragma unroll
        for (u32 n = 0; n < N; n++) {
#pragma unroll
            for (u32 i = 0; i < 4; i++) {
                const u32 below = first_below + m * 16 + i / 2 * 8 + g, beside = first_beside + n * 8 + 2 * t + i % 2;
                const u32 query = keys_below ? beside : below, key = keys_below ? below : beside;
                if (key > query || query - key >= window) scores[m][n][i] = -infinity();
            }
        }
    }
}

template <u32 M, u32 N>
DEVICE void cap_scores(float (&scores)[M][N][4], float scale) {
#pragma unroll
    for (u32 m = 0; m < M; m++) {
#pragma unroll
        for (u32 n = 0; n < N; n++) {
#pragma unroll
            for (u32 i = 0; i < 4; i++) scores[m][n][i] = capped(scores[m][n][i], scale);
        }
    }
}

// out = softmax(scale * q k') v, and lse = the logarithm of the sum of exp(scale * q k') over the keys that a row sees.
//
// Block: 128 threads for HEAD_DIM <= 128, else 256. Grid: (tiles, HEADS), tiles of 128 queries. With a row of P bytes, P = 2 *
// HEAD_DIM rounded up to a multiple of 32, and 16 more if it is no multiple of 128 then, dynamic shared memory is 192 P bytes
// for HEAD_DIM <= 64, 320 P up to 128, else 96 P.
// qkv real[n, PACKED], out real[n, WIDTH], lse float[n, HEADS], tiles uint4[tiles], scale, window
KERNEL_BOUNDS(FORWARD_THREADS, HEAD_DIM <= 128 ? 2 : 1)
attention(const real* qkv, real* out, float* lse, const uint4* tiles, float scale, u32 window) {
    DYNAMIC_SHARED(memory);
    const Place place = place_of(tiles);
    if (place.rows == 0) return;
    const u32 head = blockIdx.y, rows = place.rows;
    const u32 warp_row = place.start + threadIdx.x / WARP * FORWARD_M * 16;
    const real* const keys = place.keys(qkv, head / GROUP);
    const real* const values = place.values(qkv, head / GROUP);
    unsigned char* const turns = memory + (FORWARD_HOLDS ? 0 : FORWARD_TILE * PITCH);

    // From the last tile of keys to the first: a row's first tile has a key that it sees.
    const u32 seen = smaller(place.start + FORWARD_TILE, rows), lowest = first_seen(place.start, window);
    u32 first_key = (seen - 1) / FORWARD_KEYS * FORWARD_KEYS;
    typedef HeldRows<FORWARD_M> Held;
    typedef TileRows<FORWARD_M> Shared;
    Held held;
    const Shared shared = {memory + threadIdx.x / WARP * FORWARD_M * 16 * PITCH, lane_place<true>()};
    if (!FORWARD_HOLDS) {
        copy_rows<FORWARD_TILE, PACKED, FORWARD_THREADS>(memory, place.queries(qkv, head), place.start, rows);
    }
    copy_rows<FORWARD_KEYS, PACKED, FORWARD_THREADS>(turns, keys, first_key, rows);
    cp_async_commit();
    copy_rows<FORWARD_KEYS, PACKED, FORWARD_THREADS>(turns + FORWARD_BYTES, values, first_key, rows);
    cp_async_commit();
    if (FORWARD_HOLDS) held.template load<PACKED>(place.queries(qkv, head), warp_row, rows);

    const float factor = score_factor(scale) * LOG2_E;
    Softmax softmax;
    softmax.clear();
    u32 turn = 0;
    while (true) {
        const bool works = first_key < warp_row + FORWARD_M * 16 && warp_row < rows;
        float scores[FORWARD_M][FORWARD_KEYS / 8][4] = {};
        // The copy after next goes where all warps have just been.
        cp_async_wait<1>();
        __syncthreads();
        if (first_key > lowest) {
            unsigned char* const next = turns + (turn + 2) % TURNS * FORWARD_BYTES;
            copy_rows<FORWARD_KEYS, PACKED, FORWARD_THREADS>(next, keys, first_key - FORWARD_KEYS, rows);
        }
        cp_async_commit();
        if (works) {
            const unsigned char* const tile = turns + turn * FORWARD_BYTES;
            if (FORWARD_HOLDS) {
                multiply_along(scores, held, tile);
            } else {
                multiply_along(scores, shared, tile);
            }
            cap_scores(scores, scale);
            if (first_key + FORWARD_KEYS > warp_row + 1 || first_key < first_seen(warp_row + FORWARD_M * 16 - 1, window)) {
                mask_unseen<false>(scores, warp_row, first_key, window);
            }
            softmax.exponentials(scores, factor);
        }
        turn = (turn + 1) % TURNS;

        cp_async_wait<1>();
        __syncthreads();
        if (first_key > lowest) {
            unsigned char* const next = turns + (turn + 2) % TURNS * FORWARD_BYTES;
            copy_rows<FORWARD_KEYS, PACKED, FORWARD_THREADS>(next, values, first_key - FORWARD_KEYS, rows);
        }
        cp_async_commit();
        if (works) {
            u32 left[FORWARD_KEYS / 16][FORWARD_M][4];
            round_left(left, scores);
            multiply_across(softmax.output, left, turns + turn * FORWARD_BYTES);
        }
        turn = (turn + 1) % TURNS;
        if (first_key <= lowest) break;
        first_key -= FORWARD_KEYS;
    }

    float factors[FORWARD_M][2];
#pragma unroll
    for (u32 m = 0; m < FORWARD_M; m++) {
#pragma unroll
        for (u32 below = 0; below < 2; below++) {
            float total = softmax.total[m][below];
            total += __shfl_xor_sync(0xffffffffu, total, 1);
            total += __shfl_xor_sync(0xffffffffu, total, 2);
            factors[m][below] = 1.0f / total;
            const u32 row = warp_row + m * 16 + below * 8 + threadIdx.x % WARP / 4;
            if (threadIdx.x % 4 == 0 && row < rows) {
                lse[place.sum(row, head)] = softmax.reference[m][below] * score_factor(scale) + logf(total);
            }
        }
    }
    store_rows<FORWARD_M, WIDTH>(place.outputs(out, head), softmax.output, factors, warp_row, rows);
}

// 16s of rows of a warp, of the backward pass.
constexpr u32 BACKWARD_M = KEY_TILE / (BACKWARD_THREADS / WARP) / 16;
// Rows that pass by at a time, and how many of them a warp takes at a time, of queries and of keys.
constexpr u32 STREAM = HEAD_DIM <= 128 ? 32 : 16;
constexpr u32 QUERIES_TAKEN = 16;
constexpr u32 KEYS_TAKEN = STREAM;
constexpr u32 STREAM_BYTES = STREAM * PITCH;
// Rows of a block are in registers, or for larger heads in shared memory.
constexpr bool BACKWARD_HOLDS = HEAD_DIM <= 128;
constexpr u32 OWN_BYTES = BACKWARD_HOLDS ? 0 : KEY_TILE * PITCH;

// Rows of a warp, in registers or in a tile.
template <bool held>
struct Own;

template <>
struct Own<true> {
    typedef HeldRows<BACKWARD_M> Rows;

    template <u32 stride>
    DEVICE static void load(Rows& own, unsigned char*, const real* source, u32 row, u32 warp_row, u32 rows) {
        own.template load<stride>(source, warp_row, rows);
    }
};

template <>
struct Own<false> {
    typedef TileRows<BACKWARD_M> Rows;

    template <u32 stride>
    DEVICE static void load(Rows& own, unsigned char* tile, const real* source, u32 row, u32 warp_row, u32 rows) {
        copy_rows<KEY_TILE, stride, BACKWARD_THREADS>(tile, source, row, rows);
        own.tile = tile + (warp_row - row) * PITCH;
        own.lane = lane_place<true>();
    }
};

typedef Own<BACKWARD_HOLDS>::Rows OwnRows;

template <u32 M>
DEVICE void fill(float (&factors)[M][2], float factor) {
#pragma unroll
    for (u32 m = 0; m < M; m++) factors[m][0] = factors[m][1] = factor;
}

// Goes over the queries that see a tile of keys, for each head of the group, and writes the gradients of the values, of the
// keys, or of both. Registers hold both for all but the largest heads.
template <bool wants_values, bool wants_keys>
DEVICE void key_gradients(const OwnRows& own_keys, const OwnRows& own_values, const Place& place, u32 kv_head, u32 warp_row,
                          const real* qkv, const real* dout, const float* lse, const float* delta, real* dqkv, float scale,
                          u32 window, unsigned char* stages, float (&sums)[2][2][STREAM]) {
    constexpr u32 M = BACKWARD_M, N = QUERIES_TAKEN / 8;
    // Queries of a tile: from its own rows to the last that sees its last key.
    const u32 rows = place.rows, last = last_seeing(smaller(place.start + KEY_TILE, rows) - 1, window, rows);
    const u32 per_head = (last - place.start + STREAM - 1) / STREAM, count = GROUP * per_head;
    const u32 thread = threadIdx.x, t = thread % 4;
    // What is copied next.
    u32 next_head = kv_head * GROUP, next_row = place.start;
    const auto copy = [&](u32 turn) {
        unsigned char* const stage = stages + turn * 2 * STREAM_BYTES;
        copy_rows<STREAM, PACKED, BACKWARD_THREADS>(stage, place.queries(qkv, next_head), next_row, rows);
        copy_rows<STREAM, WIDTH, BACKWARD_THREADS>(stage + STREAM_BYTES, place.outputs(dout, next_head), next_row, rows);
    };
    // Its sums, one a thread; rows that are not there get a probability of zero.
    const auto read_sum = [&]() {
        const u32 row = next_row + thread % STREAM;
        const bool valid = row < rows;
        if (thread < STREAM) return valid ? lse[place.sum(row, next_head)] * LOG2_E : infinity();
        return valid && thread < 2 * STREAM ? delta[place.sum(row, next_head)] : 0.0f;
    };
    const auto keep_sum = [&](u32 turn, float sum) {
        if (thread < 2 * STREAM) sums[turn][thread / STREAM][thread % STREAM] = sum;
    };

    const float factor = score_factor(scale) * LOG2_E;
    float dk[M][EIGHTS][4] = {}, dv[M][EIGHTS][4] = {};
    copy(0);
    cp_async_commit();
    keep_sum(0, read_sum());
    u32 row = next_row;
    for (u32 i = 0; i < count; i++) {
        cp_async_wait<0>();
        __syncthreads();
        next_row += STREAM;
        if (next_row >= last) {
            next_row = place.start;
            next_head++;
        }
        float sum = 0.0f;
        if (i + 1 < count) {
            copy((i + 1) % 2);
            sum = read_sum();
        }
        cp_async_commit();
        const unsigned char* const queries = stages + i % 2 * 2 * STREAM_BYTES;
        const unsigned char* const outputs = queries + STREAM_BYTES;
#pragma unroll
        for (u32 taken = 0; taken < STREAM; taken += QUERIES_TAKEN) {
            const u32 first = row + taken;
            if (first + QUERIES_TAKEN <= warp_row || first >= last || warp_row >= rows) continue;
            // Keys are below each other, queries beside each other.
            float p[M][N][4] = {}, ds[M][N][4] = {};
            multiply_along(p, own_keys, queries + taken * PITCH);
            if (wants_keys) multiply_along(ds, own_values, outputs + taken * PITCH);
            cap_scores(p, scale);
            if (first + 1 < warp_row + 16 * M || warp_row < first_seen(first + QUERIES_TAKEN - 1, window)) {
                mask_unseen<true>(p, warp_row, first, window);
            }
#pragma unroll
            for (u32 n = 0; n < N; n++) {
                const float* const lses = &sums[i % 2][0][taken + n * 8 + 2 * t];
                const float* const deltas = &sums[i % 2][1][taken + n * 8 + 2 * t];
#pragma unroll
                for (u32 m = 0; m < M; m++) {
#pragma unroll
                    for (u32 e = 0; e < 4; e++) {
                        const float score = p[m][n][e];
                        p[m][n][e] = exp2_fast(score * factor - lses[e % 2]);
                        if (wants_keys) {
                            ds[m][n][e] = uncapped(p[m][n][e] * (ds[m][n][e] - deltas[e % 2]), score);
                        }
                    }
                }
            }
            u32 left[N / 2][M][4];
            if (wants_values) {
                round_left(left, p);
                multiply_across(dv, left, outputs + taken * PITCH);
            }
            if (wants_keys) {
                round_left(left, ds);
                multiply_across(dk, left, queries + taken * PITCH);
            }
        }
        if (i + 1 < count) keep_sum((i + 1) % 2, sum);
        row = next_row;
    }
    float factors[M][2];
    if (wants_values) {
        fill(factors, 1.0f);
        store_rows<M, PACKED>(place.values(dqkv, kv_head), dv, factors, warp_row, rows);
    }
    if (wants_keys) {
        fill(factors, scale);
        store_rows<M, PACKED>(place.keys(dqkv, kv_head), dk, factors, warp_row, rows);
    }
}

// dk = scale * ds' q and dv = p' dout with p = exp(scale * q k' - lse) and ds = p * (dout v' - delta), summed over the heads
// of the group.
//
// Block: 64 threads for HEAD_DIM <= 64, else 128. Grid: (tiles, KV_HEADS), tiles of 64 keys. Dynamic shared memory: 128 P
// bytes for HEAD_DIM <= 128, else 192 P, with P as for `attention`.
// qkv real[n, PACKED], dout real[n, WIDTH], lse float[n, HEADS], delta float[n, HEADS], dqkv real[n, PACKED], tiles
// uint4[tiles], scale, window
KERNEL_BOUNDS(BACKWARD_THREADS, HEAD_DIM <= 64 ? 4 : 2)
attention_backward_keys(const real* qkv, const real* dout, const float* lse, const float* delta, real* dqkv,
                        const uint4* tiles, float scale, u32 window) {
    DYNAMIC_SHARED(memory);
    __shared__ float sums[2][2][STREAM];
    const Place place = place_of(tiles);
    if (place.rows == 0) return;
    const u32 kv_head = blockIdx.y, warp_row = place.start + threadIdx.x / WARP * BACKWARD_M * 16;
    OwnRows keys, values;
    typedef Own<BACKWARD_HOLDS> Load;
    Load::load<PACKED>(keys, memory, place.keys(qkv, kv_head), place.start, warp_row, place.rows);
    Load::load<PACKED>(values, memory + OWN_BYTES, place.values(qkv, kv_head), place.start, warp_row, place.rows);
    unsigned char* const stages = memory + 2 * OWN_BYTES;
    if (BACKWARD_HOLDS) {
        key_gradients<true, true>(keys, values, place, kv_head, warp_row, qkv, dout, lse, delta, dqkv, scale, window, stages,
                                  sums);
    } else {
        key_gradients<true, false>(keys, values, place, kv_head, warp_row, qkv, dout, lse, delta, dqkv, scale, window, stages,
                                  sums);
        __syncthreads();
        key_gradients<false, true>(keys, values, place, kv_head, warp_row, qkv, dout, lse, delta, dqkv, scale, window, stages,
                                  sums);
    }
}

// dq = scale * ds k with ds as for `attention_backward_keys`.
//
// Block: as for `attention_backward_keys`. Grid: (tiles, HEADS), tiles of 64 queries. Dynamic shared memory: as for
// `attention_backward_keys`.
// qkv real[n, PACKED], dout real[n, WIDTH], lse float[n, HEADS], delta float[n, HEADS], dqkv real[n, PACKED], tiles
// uint4[tiles], scale, window
KERNEL_BOUNDS(BACKWARD_THREADS, HEAD_DIM <= 64 ? 4 : 2)
attention_backward_queries(const real* qkv, const real* dout, const float* lse, const float* delta, real* dqkv,
                           const uint4* tiles, float scale, u32 window) {
    constexpr u32 M = BACKWARD_M, N = KEYS_TAKEN / 8;
    DYNAMIC_SHARED(memory);
    const Place place = place_of(tiles);
    if (place.rows == 0) return;
    const u32 head = blockIdx.y, rows = place.rows, warp_row = place.start + threadIdx.x / WARP * M * 16;
    const real* const keys = place.keys(qkv, head / GROUP);
    const real* const values = place.values(qkv, head / GROUP);
    unsigned char* const stages = memory + 2 * OWN_BYTES;
    const u32 seen = smaller(place.start + QUERY_TILE, rows), lowest = first_seen(place.start, window) / STREAM * STREAM;
    const auto copy = [&](u32 row, u32 turn) {
        unsigned char* const stage = stages + turn * 2 * STREAM_BYTES;
        copy_rows<STREAM, PACKED, BACKWARD_THREADS>(stage, keys, row, rows);
        copy_rows<STREAM, PACKED, BACKWARD_THREADS>(stage + STREAM_BYTES, values, row, rows);
    };
    copy(lowest, 0);
    OwnRows own_queries, own_outputs;
    typedef Own<BACKWARD_HOLDS> Load;
    Load::load<PACKED>(own_queries, memory, place.queries(qkv, head), place.start, warp_row, rows);
    Load::load<WIDTH>(own_outputs, memory + OWN_BYTES, place.outputs(dout, head), place.start, warp_row, rows);
    cp_async_commit();
    // Rows that are not there get probabilities of zero.
    float lses[M][2], deltas[M][2];
#pragma unroll
    for (u32 m = 0; m < M; m++) {
#pragma unroll
        for (u32 below = 0; below < 2; below++) {
            const u32 row = warp_row + m * 16 + below * 8 + threadIdx.x % WARP / 4;
            lses[m][below] = row < rows ? lse[place.sum(row, head)] * LOG2_E : infinity();
            deltas[m][below] = row < rows ? delta[place.sum(row, head)] : 0.0f;
        }
    }

    const float factor = score_factor(scale) * LOG2_E;
    float dq[M][EIGHTS][4] = {};
    u32 turn = 0;
    for (u32 first = lowest; first < seen; first += STREAM) {
        cp_async_wait<0>();
        __syncthreads();
        if (first + STREAM < seen) copy(first + STREAM, 1 - turn);
        cp_async_commit();
        if (first < warp_row + 16 * M && warp_row < rows) {
            const unsigned char* const key_tile = stages + turn * 2 * STREAM_BYTES;
            float p[M][N][4] = {}, ds[M][N][4] = {};
            multiply_along(p, own_queries, key_tile);
            multiply_along(ds, own_outputs, key_tile + STREAM_BYTES);
            cap_scores(p, scale);
            if (first + KEYS_TAKEN > warp_row + 1 || first < first_seen(warp_row + 16 * M - 1, window)) {
                mask_unseen<false>(p, warp_row, first, window);
            }
#pragma unroll
            for (u32 m = 0; m < M; m++) {
#pragma unroll
                for (u32 n = 0; n < N; n++) {
#pragma unroll
                    for (u32 e = 0; e < 4; e++) {
                        const float probability = exp2_fast(p[m][n][e] * factor - lses[m][e / 2]);
                        ds[m][n][e] = uncapped(probability * (ds[m][n][e] - deltas[m][e / 2]), p[m][n][e]);
                    }
                }
            }
            u32 left[N / 2][M][4];
            round_left(left, ds);
            multiply_across(dq, left, key_tile);
        }
        turn = 1 - turn;
    }
    float factors[M][2];
    fill(factors, scale);
    store_rows<M, PACKED>(place.queries(dqkv, head), dq, factors, warp_row, rows);
}

#else

// Plain arithmetic. Threads are T rows of 8; a thread has some rows of a product, T apart, and some of its columns, 8 apart.
// The threads of a row of products are eight neighbours in a warp.

constexpr u32 ACROSS = 8;
// Elements from one row to the next in shared memory: an odd number of pairs, so that rows lie in different banks.
constexpr u32 PITCH = HEAD_DIM % 4 == 0 ? HEAD_DIM + 2 : HEAD_DIM;
constexpr u32 PAIRS = HEAD_DIM / 2;
// Pairs of a head's row that a thread has.
constexpr u32 OWN_PAIRS = (PAIRS + ACROSS - 1) / ACROSS;
// Rows of queries that are taken at a time in the forward pass, and of either kind in the backward pass; and rows that pass by.
constexpr u32 FORWARD_ROWS = HEAD_DIM <= 128 ? 64 : 32;
constexpr u32 FORWARD_KEYS = 32;
constexpr u32 BACKWARD_ROWS = HEAD_DIM <= 128 ? 32 : 16;

// Copies rows `row` up to `row + count` of one head into a tile; zeros from row `rows` on.
template <u32 count, u32 stride>
DEVICE void copy_rows(float* tile, const real* source, u32 row, u32 rows) {
    for (u32 i = threadIdx.x; i < count * PAIRS; i += blockDim.x) {
        const u32 at = i / PAIRS, pair = i % PAIRS;
        float2 values = {0.0f, 0.0f};
        if (row + at < rows) values = reinterpret_cast<const float2*>(source + (u64)(row + at) * stride)[pair];
        reinterpret_cast<float2*>(tile + at * PITCH)[pair] = values;
    }
}

// sums[i][j] = row T i + down of one tile times row 8 j + across of another.
template <u32 T, u32 I, u32 J>
DEVICE void multiply_along(float (&sums)[I][J], const float* left, const float* right) {
    const float2* const a = reinterpret_cast<const float2*>(left + threadIdx.x / ACROSS * PITCH);
    const float2* const b = reinterpret_cast<const float2*>(right + threadIdx.x % ACROSS * PITCH);
#pragma unroll
    for (u32 i = 0; i < I; i++) {
#pragma unroll
        for (u32 j = 0; j < J; j++) sums[i][j] = 0.0f;
    }
#pragma unroll 2
    for (u32 pair = 0; pair < PAIRS; pair++) {
        float2 x[I], y[J];
#pragma unroll
        for (u32 i = 0; i < I; i++) x[i] = a[i * T * PITCH / 2 + pair];
#pragma unroll
        for (u32 j = 0; j < J; j++) y[j] = b[j * ACROSS * PITCH / 2 + pair];
#pragma unroll
        for (u32 i = 0; i < I; i++) {
#pragma unroll
            for (u32 j = 0; j < J; j++) sums[i][j] += x[i].x * y[j].x + x[i].y * y[j].y;
        }
    }
}

// Pairs of columns of I rows, T apart.
template <u32 I>
struct Sums {
    float2 at[I][OWN_PAIRS];

    DEVICE void clear() {
#pragma unroll
        for (u32 i = 0; i < I; i++) {
#pragma unroll
            for (u32 c = 0; c < OWN_PAIRS; c++) at[i][c].x = at[i][c].y = 0.0f;
        }
    }

    DEVICE void scale(u32 i, float factor) {
#pragma unroll
        for (u32 c = 0; c < OWN_PAIRS; c++) {
            at[i][c].x *= factor;
            at[i][c].y *= factor;
        }
    }

    // Adds `weights`, of which a row has K and one more for the sake of banks, times K rows of a tile.
    template <u32 T, u32 K>
    DEVICE void multiply_across(const float* weights, const float* tile) {
        const float* const mine = weights + threadIdx.x / ACROSS * (K + 1);
#pragma unroll 2
        for (u32 k = 0; k < K; k++) {
            const float2* const row = reinterpret_cast<const float2*>(tile + k * PITCH);
            float weight[I];
#pragma unroll
            for (u32 i = 0; i < I; i++) weight[i] = mine[i * T * (K + 1) + k];
#pragma unroll
            for (u32 c = 0; c < OWN_PAIRS; c++) {
                const u32 pair = c * ACROSS + threadIdx.x % ACROSS;
                if (PAIRS % ACROSS != 0 && pair >= PAIRS) continue;
                const float2 value = row[pair];
#pragma unroll
                for (u32 i = 0; i < I; i++) {
                    at[i][c].x += weight[i] * value.x;
                    at[i][c].y += weight[i] * value.y;
                }
            }
        }
    }

    // Writes row i, times `factor`, to its place.
    DEVICE void store(real* row, u32 i, float factor) const {
#pragma unroll
        for (u32 c = 0; c < OWN_PAIRS; c++) {
            const u32 pair = c * ACROSS + threadIdx.x % ACROSS;
            if (PAIRS % ACROSS != 0 && pair >= PAIRS) continue;
            const float2 value = {at[i][c].x * factor, at[i][c].y * factor};
            reinterpret_cast<float2*>(row)[pair] = value;
        }
    }
};

template <u32 T, u32 I, u32 J>
DEVICE void keep_weights(float* weights, const float (&values)[I][J]) {
#pragma unroll
    for (u32 i = 0; i < I; i++) {
#pragma unroll
        for (u32 j = 0; j < J; j++) {
            weights[(threadIdx.x / ACROSS + i * T) * (J * ACROSS + 1) + j * ACROSS + threadIdx.x % ACROSS] = values[i][j];
        }
    }
}

// Of the eight threads of a row.
DEVICE float row_max(float value) {
    for (u32 offset = ACROSS / 2; offset > 0; offset /= 2) value = fmaxf(value, __shfl_xor_sync(0xffffffffu, value, offset));
    return value;
}

DEVICE float row_sum(float value) {
    for (u32 offset = ACROSS / 2; offset > 0; offset /= 2) value += __shfl_xor_sync(0xffffffffu, value, offset);
    return value;
}

// With float, dynamic shared memory is 4 * ((R + 32) * F + 33 * R) bytes, R = 64 for HEAD_DIM <= 128, else 32; F = HEAD_DIM, or
// HEAD_DIM + 2 where it is a multiple of 4.
KERNEL_BOUNDS(FORWARD_THREADS, 1)
attention(const real* qkv, real* out, float* lse, const uint4* tiles, float scale, u32 window) {
    constexpr u32 T = FORWARD_THREADS / ACROSS, I = FORWARD_ROWS / T, J = FORWARD_KEYS / ACROSS;
    DYNAMIC_SHARED(memory);
    float* const queries = reinterpret_cast<float*>(memory);
    float* const passing = queries + FORWARD_ROWS * PITCH;
    float* const weights = passing + FORWARD_KEYS * PITCH;
    const Place place = place_of(tiles);
    if (place.rows == 0) return;
    const u32 head = blockIdx.y, rows = place.rows, down = threadIdx.x / ACROSS, across = threadIdx.x % ACROSS;
    const u32 last = smaller(place.start + FORWARD_TILE, rows);
    for (u32 start = place.start; start < last; start += FORWARD_ROWS) {
        float largest[I], total[I];
        Sums<I> sums;
        sums.clear();
#pragma unroll
        for (u32 i = 0; i < I; i++) {
            largest[i] = LOWEST;
            total[i] = 0.0f;
        }
        __syncthreads();
        copy_rows<FORWARD_ROWS, PACKED>(queries, place.queries(qkv, head), start, rows);
        const float factor = score_factor(scale) * LOG2_E;
        const u32 lowest = first_seen(start, window) / FORWARD_KEYS * FORWARD_KEYS;
        for (u32 first = lowest; first < smaller(start + FORWARD_ROWS, rows); first += FORWARD_KEYS) {
            copy_rows<FORWARD_KEYS, PACKED>(passing, place.keys(qkv, head / GROUP), first, rows);
            __syncthreads();
            float scores[I][J];
            multiply_along<T>(scores, queries, passing);
            __syncthreads();
            copy_rows<FORWARD_KEYS, PACKED>(passing, place.values(qkv, head / GROUP), first, rows);
#pragma unroll
            for (u32 i = 0; i < I; i++) {
                float most = largest[i];
#pragma unroll
                for (u32 j = 0; j < J; j++) {
                    const u32 key = first + j * ACROSS + across, query = start + i * T + down;
                    const bool is_seen = key <= query && query - key < window;
                    scores[i][j] = is_seen ? capped(scores[i][j], scale) : -infinity();
                    most = fmaxf(most, scores[i][j]);
                }
                most = row_max(most);
                const float shrink = exp2_fast((largest[i] - most) * factor);
                largest[i] = most;
                total[i] *= shrink;
                sums.scale(i, shrink);
#pragma unroll
                for (u32 j = 0; j < J; j++) {
                    scores[i][j] = exp2_fast((scores[i][j] - most) * factor);
                    total[i] += scores[i][j];
                }
            }
            keep_weights<T>(weights, scores);
            __syncthreads();
            sums.template multiply_across<T, FORWARD_KEYS>(weights, passing);
            __syncthreads();
        }
#pragma unroll
        for (u32 i = 0; i < I; i++) {
            const float sum = row_sum(total[i]);
            const u32 row = start + i * T + down;
            if (row >= rows) continue;
            sums.store(place.outputs(out, head) + (u64)row * WIDTH, i, 1.0f / sum);
            if (across == 0) lse[place.sum(row, head)] = largest[i] * score_factor(scale) + logf(sum);
        }
    }
}

// Probabilities from scores, and their gradients from those of the outputs. Queries are beside each other with `keys_down`,
// else below each other.
template <bool keys_down, u32 T, u32 I, u32 J>
DEVICE void score_gradients(float (&p)[I][J], float (&ds)[I][J], const Place& place, u32 head, u32 first_down, u32 first_across,
                            const float* lse, const float* delta, float scale, u32 window) {
    const u32 down = first_down + threadIdx.x / ACROSS, across = first_across + threadIdx.x % ACROSS;
#pragma unroll
    for (u32 i = 0; i < I; i++) {
#pragma unroll
        for (u32 j = 0; j < J; j++) {
            const u32 a = down + i * T, b = across + j * ACROSS, query = keys_down ? b : a, key = keys_down ? a : b;
            float probability = 0.0f, gradient = 0.0f;
            if (key <= query && query - key < window && query < place.rows) {
                const u64 sum = place.sum(query, head);
                const float score = capped(p[i][j], scale);
                probability = exp2_fast((score * score_factor(scale) - lse[sum]) * LOG2_E);
                gradient = uncapped(probability * (ds[i][j] - delta[sum]), score);
            }
            p[i][j] = probability;
            ds[i][j] = gradient;
        }
    }
}

// With float, dynamic shared memory is 4 * (4 * R * F + 2 * R * (R + 1)) bytes, R = 32 for HEAD_DIM <= 128, else 16; F as for
// `attention`. So it is for `attention_backward_queries`.
KERNEL_BOUNDS(BACKWARD_THREADS, 1)
attention_backward_keys(const real* qkv, const real* dout, const float* lse, const float* delta, real* dqkv,
                        const uint4* tiles, float scale, u32 window) {
    constexpr u32 R = BACKWARD_ROWS, T = BACKWARD_THREADS / ACROSS, I = R / T, J = R / ACROSS;
    DYNAMIC_SHARED(memory);
    float* const keys = reinterpret_cast<float*>(memory);
    float* const values = keys + R * PITCH;
    float* const queries = values + R * PITCH;
    float* const outputs = queries + R * PITCH;
    float* const value_weights = outputs + R * PITCH;
    float* const key_weights = value_weights + R * (R + 1);
    const Place place = place_of(tiles);
    if (place.rows == 0) return;
    const u32 kv_head = blockIdx.y, rows = place.rows, last = smaller(place.start + KEY_TILE, rows);
    for (u32 start = place.start; start < last; start += R) {
        Sums<I> dk, dv;
        dk.clear();
        dv.clear();
        __syncthreads();
        copy_rows<R, PACKED>(keys, place.keys(qkv, kv_head), start, rows);
        copy_rows<R, PACKED>(values, place.values(qkv, kv_head), start, rows);
        for (u32 head = kv_head * GROUP; head < (kv_head + 1) * GROUP; head++) {
            for (u32 first = start; first < last_seeing(smaller(start + R, rows) - 1, window, rows); first += R) {
                copy_rows<R, PACKED>(queries, place.queries(qkv, head), first, rows);
                copy_rows<R, WIDTH>(outputs, place.outputs(dout, head), first, rows);
                __syncthreads();
                float p[I][J], ds[I][J];
                multiply_along<T>(p, keys, queries);
                multiply_along<T>(ds, values, outputs);
                score_gradients<true, T>(p, ds, place, head, start, first, lse, delta, scale, window);
                keep_weights<T>(value_weights, p);
                keep_weights<T>(key_weights, ds);
                __syncthreads();
                dv.template multiply_across<T, R>(value_weights, outputs);
                dk.template multiply_across<T, R>(key_weights, queries);
                __syncthreads();
            }
        }
#pragma unroll
        for (u32 i = 0; i < I; i++) {
            const u32 row = start + i * T + threadIdx.x / ACROSS;
            if (row >= rows) continue;
            dk.store(place.keys(dqkv, kv_head) + (u64)row * PACKED, i, scale);
            dv.store(place.values(dqkv, kv_head) + (u64)row * PACKED, i, 1.0f);
        }
    }
}

KERNEL_BOUNDS(BACKWARD_THREADS, 1)
attention_backward_queries(const real* qkv, const real* dout, const float* lse, const float* delta, real* dqkv,
                           const uint4* tiles, float scale, u32 window) {
    constexpr u32 R = BACKWARD_ROWS, T = BACKWARD_THREADS / ACROSS, I = R / T, J = R / ACROSS;
    DYNAMIC_SHARED(memory);
    float* const queries = reinterpret_cast<float*>(memory);
    float* const outputs = queries + R * PITCH;
    float* const keys = outputs + R * PITCH;
    float* const values = keys + R * PITCH;
    float* const weights = values + R * PITCH;
    const Place place = place_of(tiles);
    if (place.rows == 0) return;
    const u32 head = blockIdx.y, rows = place.rows, last = smaller(place.start + QUERY_TILE, rows);
    for (u32 start = place.start; start < last; start += R) {
        Sums<I> dq;
        dq.clear();
        __syncthreads();
        copy_rows<R, PACKED>(queries, place.queries(qkv, head), start, rows);
        copy_rows<R, WIDTH>(outputs, place.outputs(dout, head), start, rows);
        for (u32 first = first_seen(start, window) / R * R; first < smaller(start + R, rows); first += R) {
            copy_rows<R, PACKED>(keys, place.keys(qkv, head / GROUP), first, rows);
            copy_rows<R, PACKED>(values, place.values(qkv, head / GROUP), first, rows);
            __syncthreads();
            float p[I][J], ds[I][J];
            multiply_along<T>(p, queries, keys);
            multiply_along<T>(ds, outputs, values);
            score_gradients<false, T>(p, ds, place, head, start, first, lse, delta, scale, window);
            keep_weights<T>(weights, ds);
            __syncthreads();
            dq.template multiply_across<T, R>(weights, keys);
            __syncthreads();
        }
#pragma unroll
        for (u32 i = 0; i < I; i++) {
            const u32 row = start + i * T + threadIdx.x / ACROSS;
            if (row < rows) dq.store(place.queries(dqkv, head) + (u64)row * PACKED, i, scale);
        }
    }
}

#endif

// Elements of a head that a thread takes at a time.
constexpr u32 EIGHT = 8;
constexpr u32 HEAD_EIGHTS = (HEAD_DIM + EIGHT - 1) / EIGHT;

constexpr u32 power_of_two(u32 least) {
    u32 power = 1;
    while (power < least) power *= 2;
    return power;
}

// Threads that share a head's row, each with an eight of it.
constexpr u32 TEAM = power_of_two(HEAD_EIGHTS);
static_assert(TEAM <= WARP, "a row belongs to a part of a warp");

// The thread's eight of a head's row; zeros beyond the head.
DEVICE Eight load_head(const real* row) {
    const u32 column = threadIdx.x % TEAM * EIGHT;
    Eight values = {};
    if (HEAD_DIM % EIGHT == 0) {
        if (column < HEAD_DIM) values = load8(row + column);
        return values;
    }
#pragma unroll
    for (u32 i = 0; i < EIGHT; i++) {
        if (column + i < HEAD_DIM) values.at[i] = to_float(row[column + i]);
    }
    return values;
}

// Of the threads of a team.
DEVICE float team_sum(float value) {
    for (u32 offset = TEAM / 2; offset > 0; offset /= 2) value += __shfl_xor_sync(0xffffffffu, value, offset);
    return value;
}

DEVICE float dot(const Eight& a, const Eight& b) {
    float sum = 0.0f;
#pragma unroll
    for (u32 i = 0; i < EIGHT; i++) sum += a.at[i] * b.at[i];
    return sum;
}

constexpr u32 DELTA_THREADS = 256;

// delta = the sum over a head of out * dout: what the gradient of a row's probabilities is less by.
//
// Block: 256. Grid: ceil(n * HEADS * L / 256), L = HEAD_DIM / 8 rounded up to a power of two. No dynamic shared memory.
// out real[n, WIDTH], dout real[n, WIDTH], delta float[n, HEADS], n
KERNEL_BOUNDS(DELTA_THREADS, 4) attention_delta(const real* out, const real* dout, float* delta, u32 n) {
    const u64 item = ((u64)blockIdx.x * blockDim.x + threadIdx.x) / TEAM, items = (u64)n * HEADS;
    float sum = 0.0f;
    if (item < items) sum = dot(load_head(out + item * HEAD_DIM), load_head(dout + item * HEAD_DIM));
    sum = team_sum(sum);
    if (item < items && threadIdx.x % TEAM == 0) delta[item] = sum;
}

constexpr u32 APPEND_THREADS = 128;

// Puts the keys and values of row i into entry lens[i] - 1 of slot slots[i].
//
// Block: 128. Grid: b. No dynamic shared memory.
// qkv real[b, PACKED], keys real[slots, capacity, KV_HEADS * HEAD_DIM], values like keys, slots u32[b], lens u32[b], capacity
KERNEL_BOUNDS(APPEND_THREADS, 4)
append(const real* qkv, real* keys, real* values, const u32* slots, const u32* lens, u32 capacity) {
    constexpr u32 ROW = KV_HEADS * HEAD_DIM;
    // Both kinds of `real` come in pairs of this size.
    typedef struct { real first, second; } Pair;
    const u32 row = blockIdx.x;
    const u64 entry = ((u64)slots[row] * capacity + lens[row] - 1) * ROW;
    const real* const new_keys = qkv + (u64)row * PACKED + HEADS * HEAD_DIM;
    for (u32 i = threadIdx.x; i < ROW / 2; i += blockDim.x) {
        reinterpret_cast<Pair*>(keys + entry)[i] = reinterpret_cast<const Pair*>(new_keys)[i];
        reinterpret_cast<Pair*>(values + entry)[i] = reinterpret_cast<const Pair*>(new_keys + ROW)[i];
    }
}

constexpr u32 CACHED_THREADS = 256;
constexpr u32 CACHED_WARPS = CACHED_THREADS / WARP;
constexpr u32 CACHED_TEAMS = CACHED_THREADS / TEAM;
// Heads of a group that go over the cache together, and keys that a team takes at a time.
constexpr u32 CACHED_ROUNDS = (GROUP + 7) / 8;
constexpr u32 CACHED_HEADS = (GROUP + CACHED_ROUNDS - 1) / CACHED_ROUNDS;
constexpr u32 CACHED_KEYS = 4;
// What a team knows of a query: the sum of exp(score - largest), and the thread's eight of that of exp(score - largest) * v.
struct Mixture {
    float largest;
    float total;
    Eight output;

    DEVICE void clear() {
        largest = LOWEST;
        total = 0.0f;
        output = Eight();
    }

    // Makes exponentials those of differences to `most`.
    DEVICE void raise(float most, float factor) {
        const float shrink = exp2_fast((largest - most) * factor);
        largest = most;
        total *= shrink;
#pragma unroll
        for (u32 i = 0; i < EIGHT; i++) output.at[i] *= shrink;
    }
};

// out = softmax(scale * q k') v of query i over the first lens[i] entries of slot slots[i], the last `window` of them.
//
// Block: 256. Grid: (b, KV_HEADS). No dynamic shared memory.
// qkv real[b, PACKED], keys real[slots, capacity, KV_HEADS * HEAD_DIM], values like keys, out real[b, WIDTH], slots u32[b],
// lens u32[b], capacity, scale, window
KERNEL_BOUNDS(CACHED_THREADS, 1)
attention_cached(const real* qkv, const real* keys, const real* values, real* out, const u32* slots, const u32* lens,
                 u32 capacity, float scale, u32 window) {
    constexpr u32 ROW = KV_HEADS * HEAD_DIM;
    __shared__ float room[CACHED_WARPS][TEAM * EIGHT + 2];
    const u32 row = blockIdx.x, kv_head = blockIdx.y, count = lens[row], lowest = first_seen(count - 1, window);
    const u32 warp = threadIdx.x / WARP, lane = threadIdx.x % WARP, team = threadIdx.x / TEAM;
    const u64 base = (u64)slots[row] * capacity * ROW + kv_head * HEAD_DIM;
    const float factor = score_factor(scale) * LOG2_E;
    for (u32 round = 0; round < CACHED_ROUNDS; round++) {
        // The last round has a head again where the group is not a multiple.
        const u32 first_head = kv_head * GROUP + smaller(round * CACHED_HEADS, GROUP - CACHED_HEADS);
        Eight queries[CACHED_HEADS];
        Mixture mixtures[CACHED_HEADS];
#pragma unroll
        for (u32 h = 0; h < CACHED_HEADS; h++) {
            queries[h] = load_head(qkv + (u64)row * PACKED + (first_head + h) * HEAD_DIM);
            mixtures[h].clear();
        }
        for (u32 first = lowest; first < count; first += CACHED_TEAMS * CACHED_KEYS) {
            Eight loaded[CACHED_KEYS];
            float scores[CACHED_KEYS][CACHED_HEADS];
#pragma unroll
            for (u32 k = 0; k < CACHED_KEYS; k++) {
                const u32 key = first + k * CACHED_TEAMS + team;
                loaded[k] = key < count ? load_head(keys + base + (u64)key * ROW) : Eight();
            }
#pragma unroll
            for (u32 k = 0; k < CACHED_KEYS; k++) {
                const u32 key = first + k * CACHED_TEAMS + team;
#pragma unroll
                for (u32 h = 0; h < CACHED_HEADS; h++) {
                    const float score = capped(team_sum(dot(queries[h], loaded[k])), scale);
                    scores[k][h] = key < count ? score : -infinity();
                }
            }
#pragma unroll
            for (u32 k = 0; k < CACHED_KEYS; k++) {
                const u32 key = first + k * CACHED_TEAMS + team;
                loaded[k] = key < count ? load_head(values + base + (u64)key * ROW) : Eight();
            }
#pragma unroll
            for (u32 h = 0; h < CACHED_HEADS; h++) {
                Mixture& mixture = mixtures[h];
                float most = mixture.largest;
#pragma unroll
                for (u32 k = 0; k < CACHED_KEYS; k++) most = fmaxf(most, scores[k][h]);
                mixture.raise(most, factor);
#pragma unroll
                for (u32 k = 0; k < CACHED_KEYS; k++) {
                    const float weight = exp2_fast((scores[k][h] - most) * factor);
                    mixture.total += weight;
#pragma unroll
                    for (u32 i = 0; i < EIGHT; i++) mixture.output.at[i] += weight * loaded[k].at[i];
                }
            }
        }
        // Teams of a warp come together, then warps one after another.
#pragma unroll
        for (u32 h = 0; h < CACHED_HEADS; h++) {
            Mixture& mixture = mixtures[h];
            mixture.raise(warp_max(mixture.largest), factor);
            for (u32 offset = TEAM; offset < WARP; offset *= 2) {
                mixture.total += __shfl_xor_sync(0xffffffffu, mixture.total, offset);
#pragma unroll
                for (u32 i = 0; i < EIGHT; i++) {
                    mixture.output.at[i] += __shfl_xor_sync(0xffffffffu, mixture.output.at[i], offset);
                }
            }
            __syncthreads();
            if (lane < TEAM) {
                room[warp][TEAM * EIGHT] = mixture.largest;
                room[warp][TEAM * EIGHT + 1] = mixture.total;
#pragma unroll
                for (u32 i = 0; i < EIGHT; i++) room[warp][lane * EIGHT + i] = mixture.output.at[i];
            }
            __syncthreads();
            float most = LOWEST;
            for (u32 w = 0; w < CACHED_WARPS; w++) most = fmaxf(most, room[w][TEAM * EIGHT]);
            for (u32 column = threadIdx.x; column < HEAD_DIM; column += CACHED_THREADS) {
                float total = 0.0f, sum = 0.0f;
                for (u32 w = 0; w < CACHED_WARPS; w++) {
                    const float share = exp2_fast((room[w][TEAM * EIGHT] - most) * factor);
                    total += room[w][TEAM * EIGHT + 1] * share;
                    sum += room[w][column] * share;
                }
                out[(u64)row * WIDTH + (first_head + h) * HEAD_DIM + column] = from_float<real>(sum / total);
            }
        }
    }
}
