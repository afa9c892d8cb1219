// Rows of a table by their ids, and the gradient of the table.
//
// Rows of one id are added in the order of the batch without atomics: the host sorts, each thread adds up columns of its
// own. It builds, of ids[n]:
//   order     the positions 0..n sorted by id, equal ids in their order in the batch (a stable sort).
//   segments  the stretches of equal ids in `order`, cut into pieces of at most 32 so that a frequent id is not one
//             thread's work alone: {first index into `order`, count, id, slot}. The slot is DIRECT for an id of one piece;
//             the pieces of the other ids have slots 0, 1, 2, ... in the order of the segments.
//   runs      for each id of several pieces {its first slot, its pieces, id, 0}; its slots follow each other.
// No id has two segments that are DIRECT, nor two runs, so that a row of the table has one writer per launch. Segments and
// runs with a count of 0 stand for nothing.

// Elements that a thread takes at a time.
constexpr u32 GROUP = 8;
// Threads of a block at most.
constexpr u32 MOST_THREADS = 256;
// The slot of a segment that is all there is of its id.
constexpr u32 DIRECT = 0xffffffffu;

DEVICE void add_group(Eight& sum, const Eight& values) {
    for (u32 i = 0; i < GROUP; i++) sum.at[i] += values.at[i];
}

// Row i of `out` is row ids[i] of the table.
//
// Block: 256. Grid: any; best is ceil(n * ceil(h / 8) / 256), whose product is below 2^32. No dynamic shared memory.
// ids u32[n], table real[v, h], out real[n, h], n, h
KERNEL_BOUNDS(MOST_THREADS, 4) embed(const u32* ids, const real* table, real* out, u32 n, u32 h) {
    const u32 groups = groups_of(h);
    const bool wide = h % GROUP == 0 && is_aligned(table) && is_aligned(out);
    for (u64 item = this_thread(); item < (u64)n * groups; item += all_threads()) {
        const u32 row = (u32)item / groups, column = ((u32)item - row * groups) * GROUP;
        const real* const source = table + (u64)ids[row] * h + column;
        real* const target = out + (u64)row * h + column;
        if (wide) {
            constexpr u32 PIECES = GROUP * sizeof(real) / sizeof(uint4);
            uint4 pieces[PIECES];
            for (u32 i = 0; i < PIECES; i++) pieces[i] = reinterpret_cast<const uint4*>(source)[i];
            for (u32 i = 0; i < PIECES; i++) reinterpret_cast<uint4*>(target)[i] = pieces[i];
        } else {
#pragma unroll
            for (u32 i = 0; i < GROUP; i++) {
                if (i < h - column) target[i] = source[i];
            }
        }
    }
}

template <bool whole>
DEVICE void add_segment(const uint4& segment, const u32* order, const real* dy, float* dtable, float* partials, u32 column,
                        u32 h, u32 left) {
    if (segment.y == 0) return;
    float* const target =
        segment.w == DIRECT ? dtable + (u64)segment.z * h + column : partials + (u64)segment.w * h + column;
    Eight sum = {};
    if (segment.w == DIRECT) sum = load_group<whole>(target, left);
    const u32* const positions = order + segment.x;
    // Several rows are on their way at a time; they are added in order all the same.
#pragma unroll 4
    for (u32 i = 0; i < segment.y; i++) {
        add_group(sum, load_group<whole>(dy + (u64)positions[i] * h + column, left));
    }
    store_group<whole>(target, sum, left);
}

// Adds the rows of each segment: to the row of its id where it is all there is of the id, else into a row of `partials`.
//
// Block: 256. Grid: any; best is ceil(segment_count * ceil(h / 8) / 256), whose product is below 2^32. No dynamic shared
// memory.
// order u32[n], segments uint4[segment_count], dy real[n, h], dtable float[v, h] (added to), partials float[slots, h]
// (overwritten; may be null where there are no slots), segment_count, h
KERNEL_BOUNDS(MOST_THREADS, 2)
embed_backward(const u32* order, const uint4* segments, const real* dy, float* dtable, float* partials, u32 segment_count,
               u32 h) {
    const u32 groups = groups_of(h);
    const bool wide = h % GROUP == 0 && is_aligned(dy) && is_aligned(dtable) && is_aligned(partials);
    for (u64 item = this_thread(); item < (u64)segment_count * groups; item += all_threads()) {
        const u32 number = (u32)item / groups, column = ((u32)item - number * groups) * GROUP;
        if (wide) {
            add_segment<true>(segments[number], order, dy, dtable, partials, column, h, GROUP);
        } else {
            add_segment<false>(segments[number], order, dy, dtable, partials, column, h, h - column);
        }
    }
}

template <bool whole>
DEVICE void add_run(const uint4& run, const float* partials, float* dtable, u32 column, u32 h, u32 left) {
    if (run.y == 0) return;
    float* const target = dtable + (u64)run.z * h + column;
    Eight sum = load_group<whole>(target, left);
    const float* const parts = partials + (u64)run.x * h + column;
#pragma unroll 4
    for (u32 i = 0; i < run.y; i++) add_group(sum, load_group<whole>(parts + (u64)i * h, left));
    store_group<whole>(target, sum, left);
}

// Adds the partial sums of each run to the row of its id. Follows `embed_backward`.
//
// Block: 256. Grid: any; best is ceil(run_count * ceil(h / 8) / 256), whose product is below 2^32. No dynamic shared memory.
// runs uint4[run_count], partials float[slots, h], dtable float[v, h] (added to), run_count, h
KERNEL_BOUNDS(MOST_THREADS, 2)
embed_backward_finish(const uint4* runs, const float* partials, float* dtable, u32 run_count, u32 h) {
    const u32 groups = groups_of(h);
    const bool wide = h % GROUP == 0 && is_aligned(partials) && is_aligned(dtable);
    for (u64 item = this_thread(); item < (u64)run_count * groups; item += all_threads()) {
        const u32 number = (u32)item / groups, column = ((u32)item - number * groups) * GROUP;
        if (wide) {
            add_run<true>(runs[number], partials, dtable, column, h, GROUP);
        } else {
            add_run<false>(runs[number], partials, dtable, column, h, h - column);
        }
    }
}
