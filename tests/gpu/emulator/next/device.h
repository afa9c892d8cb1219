// What a kernel's source sees of a device when it is compiled with HOST_EMULATOR. It stands in for what CUDA's compiler has
// built in, and for the inline PTX of prelude.cuh. No other header is included, so that sources compile quickly.
#pragma once
#include "launch.h"

namespace host_emulator {
// Written by the driver when it loads the module.
static Machine* machine;
}

typedef __SIZE_TYPE__ size_t;

// Kernels and shared memory are found by the words HOST_EMULATOR_KERNEL and __shared__ once the source is preprocessed
// (nvrtc.cpp).
#define KERNEL HOST_EMULATOR_KERNEL(1024)
#define KERNEL_BOUNDS(threads, blocks) HOST_EMULATOR_KERNEL(threads)
#define DYNAMIC_SHARED(name) unsigned char* const name = host_emulator::machine->dynamic
#define DEVICE inline __attribute__((always_inline))
#define __device__
#define __host__
#define __forceinline__ inline __attribute__((always_inline))
#define __align__(bytes) __attribute__((aligned(bytes)))
#define __constant__ static

#define threadIdx (host_emulator::machine->thread->index)
#define blockIdx (host_emulator::machine->block)
#define blockDim (host_emulator::machine->block_size)
#define gridDim (host_emulator::machine->grid)
#define warpSize 32

struct __align__(8) uint2 { unsigned x, y; };
struct __align__(16) uint4 { unsigned x, y, z, w; };
struct __align__(8) int2 { int x, y; };
struct __align__(16) int4 { int x, y, z, w; };
struct __align__(8) float2 { float x, y; };
struct __align__(16) float4 { float x, y, z, w; };
struct __align__(16) double2 { double x, y; };
static inline uint2 make_uint2(unsigned x, unsigned y) { return {x, y}; }
static inline uint4 make_uint4(unsigned x, unsigned y, unsigned z, unsigned w) { return {x, y, z, w}; }
static inline int2 make_int2(int x, int y) { return {x, y}; }
static inline int4 make_int4(int x, int y, int z, int w) { return {x, y, z, w}; }
static inline float2 make_float2(float x, float y) { return {x, y}; }
static inline float4 make_float4(float x, float y, float z, float w) { return {x, y, z, w}; }
static inline double2 make_double2(double x, double y) { return {x, y}; }

extern "C" {
float fmaxf(float, float) noexcept;
float fminf(float, float) noexcept;
float fabsf(float) noexcept;
float expf(float) noexcept;
float exp2f(float) noexcept;
float logf(float) noexcept;
float log2f(float) noexcept;
float log1pf(float) noexcept;
float powf(float, float) noexcept;
float sqrtf(float) noexcept;
float sinf(float) noexcept;
float cosf(float) noexcept;
float tanhf(float) noexcept;
float erff(float) noexcept;
float floorf(float) noexcept;
float ceilf(float) noexcept;
float truncf(float) noexcept;
float roundf(float) noexcept;
float rintf(float) noexcept;
float fmodf(float, float) noexcept;
float fmaf(float, float, float) noexcept;
float copysignf(float, float) noexcept;
double fmax(double, double) noexcept;
double fmin(double, double) noexcept;
double fabs(double) noexcept;
double exp(double) noexcept;
double log(double) noexcept;
double pow(double, double) noexcept;
double sqrt(double) noexcept;
double floor(double) noexcept;
double ceil(double) noexcept;
double fma(double, double, double) noexcept;
}
static inline float rsqrtf(float x) { return 1.0f / sqrtf(x); }
static inline double rsqrt(double x) { return 1.0 / sqrt(x); }
static inline float __expf(float x) { return expf(x); }
static inline float __logf(float x) { return logf(x); }
static inline float __fdividef(float x, float y) { return x / y; }
static inline float __frcp_rn(float x) { return 1.0f / x; }
static inline bool isnan(double x) { return __builtin_isnan(x); }
static inline bool isinf(double x) { return __builtin_isinf(x); }
static inline bool isfinite(double x) { return __builtin_isfinite(x); }
static inline int min(int a, int b) { return a < b ? a : b; }
static inline unsigned min(unsigned a, unsigned b) { return a < b ? a : b; }
static inline unsigned long long min(unsigned long long a, unsigned long long b) { return a < b ? a : b; }
static inline float min(float a, float b) { return fminf(a, b); }
static inline double min(double a, double b) { return fmin(a, b); }
static inline int max(int a, int b) { return a > b ? a : b; }
static inline unsigned max(unsigned a, unsigned b) { return a > b ? a : b; }
static inline unsigned long long max(unsigned long long a, unsigned long long b) { return a > b ? a : b; }
static inline float max(float a, float b) { return fmaxf(a, b); }
static inline double max(double a, double b) { return fmax(a, b); }
static inline int __popc(unsigned x) { return __builtin_popcount(x); }
static inline int __ffs(int x) { return __builtin_ffs(x); }
static inline int __clz(int x) { return x ? __builtin_clz(x) : 32; }

namespace host_emulator {

template <typename To, typename From>
inline To bits(const From& from) {
    static_assert(sizeof(To) == sizeof(From), "one size");
    To to;
    __builtin_memcpy(&to, &from, sizeof to);
    return to;
}

inline unsigned lane() { return machine->thread->number % WARP; }

// A shuffle: every lane gives a value and takes that of `source`.
inline void exchange(Thread* lanes, unsigned mask) {
    for (unsigned lane = 0; lane < WARP; lane++) {
        if ((mask >> lane & 1) == 0) continue;
        const unsigned source = lanes[lane].source;
        if ((mask >> source & 1) == 0) machine->fail("a shuffle reads a lane that takes no part in it");
        lanes[lane].result = lanes[source].value;
    }
}

template <typename T>
inline T shuffle(const char* what, unsigned mask, T value, unsigned source) {
    static_assert(sizeof(T) == 4 || sizeof(T) == 8, "shuffles are of 4 or 8 bytes");
    Thread* const thread = machine->thread;
    __builtin_memcpy(&thread->value, &value, sizeof value);
    thread->source = source;
    machine->meet(what, mask, exchange);
    __builtin_memcpy(&value, &thread->result, sizeof value);
    return value;
}

// The lane `source` if it is in the same part of `width` lanes, else the lane itself.
inline unsigned same_part(int source, int width) {
    const int own = (int)lane(), first = own & ~(width - 1);
    return (unsigned)(source >= first && source < first + width ? source : own);
}

inline void vote(Thread* lanes, unsigned mask) {
    unsigned votes = 0;
    for (unsigned lane = 0; lane < WARP; lane++) {
        if (mask >> lane & 1) votes |= (lanes[lane].value != 0 ? 1u : 0u) << lane;
    }
    for (unsigned lane = 0; lane < WARP; lane++) {
        if (mask >> lane & 1) lanes[lane].result = votes;
    }
}

inline unsigned ballot(const char* what, unsigned mask, int predicate) {
    Thread* const thread = machine->thread;
    thread->value = predicate != 0;
    machine->meet(what, mask, vote);
    return (unsigned)thread->result;
}

inline float widened(unsigned bits16) { return bits<float>(bits16 << 16); }

// Rounds to nearest even; NaN becomes the one that the hardware gives.
inline unsigned short rounded(float value) {
    const unsigned u = bits<unsigned>(value);
    if ((u & 0x7fffffffu) > 0x7f800000u) return 0x7fff;
    return (unsigned short)((u + 0x7fffu + (u >> 16 & 1u)) >> 16);
}

typedef float Four __attribute__((vector_size(16)));

// See `mma_16816` of prelude.cuh for who holds what.
inline void multiply(Thread* lanes, unsigned) {
    float a[16][16];
    Four b[16][2];
    float* const right = reinterpret_cast<float*>(b);
    for (unsigned lane = 0; lane < WARP; lane++) {
        const unsigned g = lane / 4, t = lane % 4;
        const unsigned* const left = (const unsigned*)lanes[lane].operands[1];
        for (unsigned i = 0; i < 4; i++) {
            float* const pair = &a[g + i % 2 * 8][2 * t + i / 2 * 8];
            pair[0] = widened(left[i] & 0xffffu);
            pair[1] = widened(left[i] >> 16);
        }
        const unsigned* const other = (const unsigned*)lanes[lane].operands[2];
        for (unsigned i = 0; i < 2; i++) {
            right[(2 * t + 8 * i) * 8 + g] = widened(other[i] & 0xffffu);
            right[(2 * t + 8 * i + 1) * 8 + g] = widened(other[i] >> 16);
        }
    }
    for (unsigned row = 0; row < 16; row++) {
        Four sums[2] = {};
        for (unsigned k = 0; k < 16; k++) {
            const float factor = a[row][k];
            const Four factors = {factor, factor, factor, factor};
            sums[0] += factors * b[k][0];
            sums[1] += factors * b[k][1];
        }
        for (unsigned t = 0; t < 4; t++) {
            float* const d = (float*)lanes[row % 8 * 4 + t].operands[0] + row / 8 * 2;
            d[0] += sums[t / 2][t % 2 * 2];
            d[1] += sums[t / 2][t % 2 * 2 + 1];
        }
    }
}

template <bool transposed>
inline void load_matrices(Thread* lanes, unsigned) {
    for (unsigned i = 0; i < 4; i++) {
        const unsigned short* rows[8];
        unsigned banks = 0;
        for (unsigned k = 0; k < 8; k++) {
            rows[k] = (const unsigned short*)lanes[i * 8 + k].operands[1];
            banks |= 1u << ((size_t)rows[k] / 16 % 8);
        }
        if (banks != 0xff) machine->fail("a bank conflict in ldmatrix");
        for (unsigned lane = 0; lane < WARP; lane++) {
            const unsigned g = lane / 4, t = lane % 4;
            ((unsigned*)lanes[lane].operands[0])[i] = transposed ? rows[2 * t][g] | (unsigned)rows[2 * t + 1][g] << 16
                                                                 : rows[g][2 * t] | (unsigned)rows[g][2 * t + 1] << 16;
        }
    }
}

template <bool transposed>
inline void load_matrix(const char* what, unsigned (&r)[4], const void* row) {
    machine->check_row(what, row);
    machine->thread->operands[0] = r;
    machine->thread->operands[1] = row;
    machine->meet(what, 0xffffffffu, load_matrices<transposed>);
}

inline void nothing(Thread*, unsigned) {}

// Reads a kernel's arguments, each from its own bytes, and runs it.
template <typename T>
inline T argument(void* const* arguments, unsigned at) {
    T value;
    __builtin_memcpy(&value, arguments[at], sizeof value);
    return value;
}

template <unsigned...>
struct Places {};

template <typename>
struct Signature;

template <typename... Parameters>
struct Signature<void (*)(Parameters...)> {
    static constexpr unsigned count = sizeof...(Parameters);
    static constexpr unsigned bytes[] = {sizeof(Parameters)..., 0};

    template <void (*kernel)(Parameters...), unsigned... place>
    static inline void call(void* const* arguments, Places<place...>) {
        kernel(argument<Parameters>(arguments, place)...);
    }

    template <void (*kernel)(Parameters...)>
    static void run(void* const* arguments) {
        call<kernel>(arguments, Places<__integer_pack(sizeof...(Parameters))...>());
    }
};

}

static inline float __uint_as_float(unsigned x) { return host_emulator::bits<float>(x); }
static inline unsigned __float_as_uint(float x) { return host_emulator::bits<unsigned>(x); }
static inline float __int_as_float(int x) { return host_emulator::bits<float>(x); }
static inline int __float_as_int(float x) { return host_emulator::bits<int>(x); }

static inline void __syncthreads() { host_emulator::machine->barrier(); }
static inline void __syncwarp(unsigned mask = 0xffffffffu) {
    host_emulator::machine->meet("__syncwarp", mask, host_emulator::nothing);
}
template <typename T>
static inline T __shfl_sync(unsigned mask, T value, int source, int width = 32) {
    const int first = (int)host_emulator::lane() & ~(width - 1);
    return host_emulator::shuffle("__shfl_sync", mask, value, (unsigned)(first + (source & (width - 1))));
}
template <typename T>
static inline T __shfl_xor_sync(unsigned mask, T value, int offset, int width = 32) {
    const int own = (int)host_emulator::lane(), source = own ^ offset;
    const bool beyond = source >= (own & ~(width - 1)) + width;
    return host_emulator::shuffle("__shfl_xor_sync", mask, value, (unsigned)(beyond ? own : source));
}
template <typename T>
static inline T __shfl_down_sync(unsigned mask, T value, unsigned offset, int width = 32) {
    const int source = (int)host_emulator::lane() + (int)offset;
    return host_emulator::shuffle("__shfl_down_sync", mask, value, host_emulator::same_part(source, width));
}
template <typename T>
static inline T __shfl_up_sync(unsigned mask, T value, unsigned offset, int width = 32) {
    const int source = (int)host_emulator::lane() - (int)offset;
    return host_emulator::shuffle("__shfl_up_sync", mask, value, host_emulator::same_part(source, width));
}
static inline unsigned __ballot_sync(unsigned mask, int predicate) {
    return host_emulator::ballot("__ballot_sync", mask, predicate);
}
static inline int __any_sync(unsigned mask, int predicate) {
    return host_emulator::ballot("__any_sync", mask, predicate) != 0;
}
static inline int __all_sync(unsigned mask, int predicate) {
    return host_emulator::ballot("__all_sync", mask, predicate) == mask;
}

// What prelude.cuh has in PTX.
struct bf16;
static inline unsigned pack2(float low, float high) {
    return host_emulator::rounded(low) | (unsigned)host_emulator::rounded(high) << 16;
}
// The type is complete where this is used, not here.
template <typename Type = bf16>
static inline Type to_bf16(float value) {
    Type type;
    type.bits = host_emulator::rounded(value);
    return type;
}
// The hardware's takes numbers too small to be normal for 0.
static inline float exp2_fast(float x) {
    const float y = exp2f(x);
    return y < 1.17549435e-38f ? 0.0f : y;
}
static inline void mma_16816(float (&d)[4], const unsigned (&a)[4], const unsigned (&b)[2]) {
    host_emulator::Thread* const thread = host_emulator::machine->thread;
    thread->operands[0] = d;
    thread->operands[1] = a;
    thread->operands[2] = b;
    host_emulator::machine->meet("mma", 0xffffffffu, host_emulator::multiply);
}
static inline void ldmatrix4(unsigned (&r)[4], const void* row) {
    host_emulator::load_matrix<false>("ldmatrix", r, row);
}
static inline void ldmatrix4_transposed(unsigned (&r)[4], const void* row) {
    host_emulator::load_matrix<true>("ldmatrix.trans", r, row);
}
static inline void cp_async16(void* shared, const void* global, bool valid) {
    host_emulator::machine->copy(shared, global, valid);
}
static inline void cp_async_commit() { host_emulator::machine->commit(); }
template <int pending>
static inline void cp_async_wait() {
    host_emulator::machine->wait(pending);
}
