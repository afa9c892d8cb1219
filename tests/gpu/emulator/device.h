// What kernels see of a device: one block at a time, whose threads are fibers that run in a random order.
//
// Shared memory is filled with NaN before each block. What must not happen ends the process with the place: a barrier or a
// collective that not all threads reach, an address outside of shared memory or not aligned, a bank conflict in ldmatrix, a
// copy that nobody waits for. Copies into shared memory arrive when their thread waits for them.
#pragma once
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <cmath>
#include <functional>
#include <tuple>
#include <utility>
#include <vector>
#include <sys/mman.h>
struct dim3_ { unsigned x, y, z; };
struct alignas(16) uint4 { unsigned x, y, z, w; };
struct alignas(16) float4 { float x, y, z, w; };
struct alignas(8) uint2 { unsigned x, y; };
struct alignas(8) float2 { float x, y; };
static inline uint4 make_uint4(unsigned x, unsigned y, unsigned z, unsigned w) { return {x, y, z, w}; }
static inline float4 make_float4(float x, float y, float z, float w) { return {x, y, z, w}; }
static inline float2 make_float2(float x, float y) { return {x, y}; }
namespace emu {
struct Copy { void* to; const void* from; bool valid; };
struct Fiber {
    void* sp; dim3_ tid; unsigned index; bool done, at_barrier, waiting; void* stack;
    std::vector<std::vector<Copy>> groups; std::vector<Copy> open;
    const void* arg[3];
};
struct WarpState { unsigned arrived; unsigned lanes; const char* what; };
inline Fiber* cur; inline void* main_sp; inline dim3_ block, grid, dims; inline unsigned char* dynamic; inline size_t dynamic_bytes;
inline std::vector<Fiber> fibers; inline std::vector<WarpState> warps; inline std::vector<unsigned> runnable; inline unsigned barrier_count, alive;
inline uint64_t rng = 88172645463325252ull; inline std::function<void()> body;
inline uint64_t random() { rng ^= rng << 13; rng ^= rng >> 7; rng ^= rng << 17; return rng; }
[[noreturn]] inline void die(const char* what) { fprintf(stderr, "emulator: %s (block %u %u thread %u)\n", what, block.x, block.y, cur ? cur->index : 0); abort(); }
extern "C" void emu_switch(void** save, void* load);
asm(R"(
.text
.globl emu_switch
emu_switch:
  pushq %rbp
  pushq %rbx
  pushq %r12
  pushq %r13
  pushq %r14
  pushq %r15
  movq %rsp, (%rdi)
  movq %rsi, %rsp
  popq %r15
  popq %r14
  popq %r13
  popq %r12
  popq %rbx
  popq %rbp
  ret
)");
inline void yield() { emu_switch(&cur->sp, main_sp); }
inline void release_barrier() { barrier_count = 0; for (auto& f : fibers) if (f.at_barrier) { f.at_barrier = false; runnable.push_back(f.index); } }
inline void start() {
    body();
    if (!cur->open.empty()) die("uncommitted copies at exit");
    for (auto& g : cur->groups) if (!g.empty()) die("copies on their way at exit");
    cur->done = true; alive--;
    if (alive && barrier_count == alive) release_barrier();
    yield();
}
inline void barrier() {
    cur->at_barrier = true; barrier_count++;
    if (barrier_count == alive) release_barrier();
    yield();
}
// All lanes of a warp meet; the last one does `work` for all of them.
template <typename F> inline void meet(const char* what, F work) {
    WarpState& w = warps[cur->index / 32];
    if (w.arrived && strcmp(w.what, what)) die("lanes of a warp at different collectives");
    w.what = what;
    if (++w.arrived == w.lanes) {
        w.arrived = 0;
        unsigned first = cur->index / 32 * 32;
        work(&fibers[first]);
        for (unsigned l = 0; l < w.lanes; l++) if (&fibers[first + l] != cur) runnable.push_back(first + l);
        runnable.push_back(cur->index);
    }
    yield();
}
inline void launch(unsigned gx, unsigned gy, unsigned threads, size_t shared, std::function<void()> f) {
    body = f; grid = {gx, gy, 1}; dims = {threads, 1, 1}; dynamic_bytes = shared;
    static unsigned char* area = nullptr; static size_t area_bytes = 1 << 20;
    if (!area) { area = (unsigned char*)mmap(0, area_bytes + 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0); mprotect(area + area_bytes, 4096, PROT_NONE); }
    dynamic = area + area_bytes - (shared + 127) / 128 * 128;
    const size_t STACK = 256 << 10;
    if (fibers.size() < threads) { size_t old = fibers.size(); fibers.resize(threads); for (size_t i = old; i < threads; i++) fibers[i].stack = mmap(0, STACK, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0); }
    for (auto& f : fibers) f.at_barrier = false;
    for (unsigned by = 0; by < gy; by++) for (unsigned bx = 0; bx < gx; bx++) {
        block = {bx, by, 0}; memset(dynamic, 0xff, shared); alive = threads; barrier_count = 0; runnable.clear(); warps.assign((threads + 31) / 32, {0, 32, ""});
        for (unsigned i = 0; i < threads; i++) {
            Fiber& f = fibers[i]; f.tid = {i, 0, 0}; f.index = i; f.done = f.at_barrier = false; f.groups.clear(); f.open.clear();
            void** sp = (void**)((char*)f.stack + STACK - 64); *--sp = nullptr; *--sp = (void*)start; for (int k = 0; k < 6; k++) *--sp = nullptr; f.sp = sp; runnable.push_back(i);
        }
        while (!runnable.empty()) {
            size_t pick = random() % runnable.size(); unsigned i = runnable[pick]; runnable[pick] = runnable.back(); runnable.pop_back();
            cur = &fibers[i]; emu_switch(&main_sp, cur->sp);
        }
        cur = nullptr;
        if (alive) die("deadlock");
    }
}
inline float b2f(unsigned short b) { unsigned u = (unsigned)b << 16; float f; memcpy(&f, &u, 4); return f; }
inline unsigned short f2b(float f) { unsigned u; memcpy(&u, &f, 4); if ((u & 0x7fffffff) > 0x7f800000) return 0x7fff; u += 0x7fff + ((u >> 16) & 1); return u >> 16; }
inline void check_shared(const void* p, size_t n) { if ((unsigned char*)p < dynamic || (unsigned char*)p + n > dynamic + dynamic_bytes) die("shared access out of range"); if ((uintptr_t)p % n) die("shared access not aligned"); }
}
#define threadIdx (emu::cur->tid)
#define blockIdx (emu::block)
#define blockDim (emu::dims)
#define gridDim (emu::grid)
#define __shared__ static
// Kernels are found by these words once the source is preprocessed (compile.py).
#define KERNEL EMULATED_KERNEL(1024)
#define KERNEL_BOUNDS(threads, blocks) EMULATED_KERNEL(threads)
#define DYNAMIC_SHARED(name) unsigned char* const name = emu::dynamic
#define DEVICE inline __attribute__((always_inline))
#define __syncthreads() emu::barrier()
struct bf16;
bf16 to_bf16(float value);
static inline float __uint_as_float(unsigned u) { float f; memcpy(&f, &u, 4); return f; }
static inline unsigned pack2(float low, float high) { return emu::f2b(low) | (unsigned)emu::f2b(high) << 16; }
static inline float exp2_fast(float x) { return exp2f(x); }
template <typename T> static inline T __shfl_xor_sync(unsigned mask, T v, int offset) {
    if (mask != 0xffffffffu) emu::die("mask");
    T out; emu::cur->arg[0] = &v; emu::cur->arg[1] = &out; emu::cur->arg[2] = (void*)(intptr_t)offset;
    emu::meet("shfl", [](emu::Fiber* f) { for (int l = 0; l < 32; l++) { if (f[l].arg[2] != f[0].arg[2]) emu::die("shfl offsets differ"); *(T*)f[l].arg[1] = *(const T*)f[l ^ (int)(intptr_t)f[l].arg[2]].arg[0]; } });
    return out;
}
static inline void mma_16816(float (&d)[4], const unsigned (&a)[4], const unsigned (&b)[2]) {
    emu::cur->arg[0] = d; emu::cur->arg[1] = a; emu::cur->arg[2] = b;
    emu::meet("mma", [](emu::Fiber* f) {
        float A[16][16], B[16][8];
        for (int l = 0; l < 32; l++) { int g = l / 4, t = l % 4; auto a = (const unsigned*)f[l].arg[1], b = (const unsigned*)f[l].arg[2];
            for (int h = 0; h < 2; h++) {
                auto el = [&](unsigned u) { return emu::b2f(h ? u >> 16 : u & 0xffff); };
                A[g][2 * t + h] = el(a[0]); A[g + 8][2 * t + h] = el(a[1]); A[g][2 * t + 8 + h] = el(a[2]); A[g + 8][2 * t + 8 + h] = el(a[3]);
                B[2 * t + h][g] = el(b[0]); B[2 * t + 8 + h][g] = el(b[1]); } }
        for (int l = 0; l < 32; l++) { int g = l / 4, t = l % 4; float* d = (float*)f[l].arg[0];
            for (int i = 0; i < 4; i++) { int r = g + i / 2 * 8, c = 2 * t + i % 2; float s = 0; for (int k = 0; k < 16; k++) s += A[r][k] * B[k][c]; d[i] += s; } }
    });
}
template <bool trans> static inline void emu_ldmatrix(unsigned (&r)[4], const void* row) {
    emu::check_shared(row, 16); emu::cur->arg[0] = r; emu::cur->arg[1] = row;
    emu::meet(trans ? "ldmatrix.trans" : "ldmatrix", [](emu::Fiber* f) {
        for (int i = 0; i < 4; i++) {
            unsigned banks = 0; const unsigned short* rows[8];
            for (int k = 0; k < 8; k++) { rows[k] = (const unsigned short*)f[i * 8 + k].arg[1]; banks |= 1u << ((uintptr_t)rows[k] / 16 % 8); }
            if (banks != 0xff) emu::die("bank conflict in ldmatrix");
            for (int l = 0; l < 32; l++) { int g = l / 4, t = l % 4; ((unsigned*)f[l].arg[0])[i] = trans ? rows[2 * t][g] | (unsigned)rows[2 * t + 1][g] << 16 : rows[g][2 * t] | (unsigned)rows[g][2 * t + 1] << 16; }
        }
    });
}
static inline void ldmatrix4(unsigned (&r)[4], const void* row) { emu_ldmatrix<false>(r, row); }
static inline void ldmatrix4_transposed(unsigned (&r)[4], const void* row) { emu_ldmatrix<true>(r, row); }
static inline void cp_async16(void* to, const void* from, bool valid) {
    emu::check_shared(to, 16); if ((uintptr_t)from % 16) emu::die("cp.async source not aligned");
    memset(to, 0xff, 16); emu::cur->open.push_back({to, from, valid});
}
static inline void cp_async_commit() { emu::cur->groups.push_back(std::move(emu::cur->open)); emu::cur->open.clear(); }
template <int pending> static inline void cp_async_wait() {
    auto& g = emu::cur->groups;
    while ((int)g.size() > pending) { for (auto& c : g[0]) { if (c.valid) memcpy(c.to, c.from, 16); else memset(c.to, 0, 16); } g.erase(g.begin()); }
}

// Reads a kernel's arguments, each from a word of its own, and runs it.
namespace emu {
template <typename... Arguments, size_t... index>
void call(void (*kernel)(Arguments...), const uint64_t* words, unsigned gx, unsigned gy, unsigned threads, size_t shared,
          std::index_sequence<index...>) {
    auto run = [=] {
        auto read = [](const uint64_t* word, auto* value) { memcpy(value, word, sizeof *value); };
        std::tuple<Arguments...> arguments;
        (read(words + index, &std::get<index>(arguments)), ...);
        kernel(std::get<index>(arguments)...);
    };
    launch(gx, gy, threads, shared, run);
}
template <typename... Arguments>
void call(void (*kernel)(Arguments...), const uint64_t* words, unsigned gx, unsigned gy, unsigned threads, size_t shared) {
    call(kernel, words, gx, gy, threads, shared, std::index_sequence_for<Arguments...>());
}
template <typename... Arguments>
constexpr unsigned count(void (*)(Arguments...)) { return sizeof...(Arguments); }
}
#define EMULATED_EXPORT(name, most_threads) \
    extern "C" __attribute__((visibility("default"))) const unsigned emulated_threads_##name = (most_threads); \
    extern "C" __attribute__((visibility("default"))) const unsigned emulated_count_##name = emu::count(name); \
    extern "C" __attribute__((visibility("default"))) void emulated_run_##name(const uint64_t* words, unsigned gx, unsigned gy, \
                                                                              unsigned threads, size_t shared, uint64_t seed) { \
        emu::rng = seed | 1; \
        emu::call(name, words, gx, gy, threads, shared); \
    }
