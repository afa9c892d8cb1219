// Weights from the few bits that they are packed in, as bitsandbytes packs them.

// Elements that a thread takes: a word of four bits, two words of eight.
constexpr u32 GROUP = 8;
constexpr u32 MOST_THREADS = 256;
// Elements of four bits that share a scale, and scales that share one of their own.
constexpr u32 BLOCK = 64;
constexpr u32 NESTED_BLOCK = 256;

DEVICE u32 byte_of(const u32* words, u64 index) {
    return words[index / 4] >> (index % 4 * 8) & 255;
}

// The scale of a block: an f32, or with `nested` a byte that stands for one of `scale_values`, times the scale of its own
// block, and what is added to all.
DEVICE float scale_of(const u32* scales, const float* nested, const float* scale_values, u64 block) {
    if (nested == nullptr) return bits_to_float(scales[block]);
    return scale_values[byte_of(scales, block)] * nested[1 + block / NESTED_BLOCK] + nested[0];
}

// out[i] = value of code i * scale of block i / 64; `values` are the sixteen that codes stand for.
//
// Block: 256. Grid: ceil(len / 2048). No dynamic shared memory.
// codes u32[ceil(len / 8)], scales u32[ceil(len / 64)] or bytes, nested float[1 + ceil(scales / 256)] or null, values float[16],
// scale_values float[256], out real[len], len (64 bits)
KERNEL_BOUNDS(MOST_THREADS, 4)
unpack_4bit(const u32* codes, const u32* scales, const float* nested, const float* values, const float* scale_values,
            real* out, u64 len) {
    __shared__ float table[16];
    if (threadIdx.x < 16) table[threadIdx.x] = values[threadIdx.x];
    __syncthreads();
    const bool wide = is_aligned(out);
    for (u64 group = this_thread(); group * GROUP < len; group += all_threads()) {
        const u64 at = group * GROUP, left = len - at;
        const u32 word = codes[group];
        const float scale = scale_of(scales, nested, scale_values, at / BLOCK);
        Eight unpacked;
#pragma unroll
        for (u32 i = 0; i < GROUP; i++) unpacked.at[i] = table[word >> (i ^ 1) * 4 & 15] * scale;
        if (wide && left >= GROUP) {
            store_group<true>(out + at, unpacked, GROUP);
        } else {
            store_group<false>(out + at, unpacked, left < GROUP ? (u32)left : GROUP);
        }
    }
}

// out[row, column] = code / 127 * scale of the row.
//
// Block: 256. Grid: ceil(rows * ceil(columns / 8) / 256). No dynamic shared memory.
// codes u32[ceil(rows * columns / 4)], scales float[rows], out real[rows, columns], rows, columns
KERNEL_BOUNDS(MOST_THREADS, 4)
unpack_8bit(const u32* codes, const float* scales, real* out, u32 rows, u32 columns) {
    constexpr float UNIT = 1.0f / 127.0f;
    const u32 groups = groups_of(columns);
    const bool wide = columns % GROUP == 0 && is_aligned(out);
    for (u64 item = this_thread(); item < (u64)rows * groups; item += all_threads()) {
        const u32 row = (u32)(item / groups), column = (u32)(item - (u64)row * groups) * GROUP;
        const u64 at = (u64)row * columns + column;
        const u32 left = columns - column < GROUP ? columns - column : GROUP;
        const float scale = scales[row] * UNIT;
        Eight unpacked = {};
        for (u32 i = 0; i < left; i++) unpacked.at[i] = (float)((int)(byte_of(codes, at + i) << 24) >> 24) * scale;
        if (wide) {
            store_group<true>(out + at, unpacked, GROUP);
        } else {
            store_group<false>(out + at, unpacked, left);
        }
    }
}
