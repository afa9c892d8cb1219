// What every kernel source starts with: element types, and the instructions that have no spelling in C++.
//
// nvrtc compiles the sources without any header of the toolkit, so bf16 is written by its bits here. Inline PTX is in this
// file and nowhere else: a source that is compiled with HOST_EMULATOR gets plain C++ in its place from the emulator of
// tests/gpu/emulator, and is otherwise the same text.
//
// `real` is what activations and working weights are made of: bf16 where REAL_BF16 is defined, float where it is not.
// Sums are always float.

typedef unsigned int u32;
typedef unsigned long long u64;

constexpr u32 WARP = 32;
constexpr float LOG2_E = 1.44269504f;

// A number in bfloat16, by its bits.
struct bf16 {
    unsigned short bits;
};

#if defined(REAL_BF16)
typedef bf16 real;
#else
typedef float real;
#endif

#if !defined(HOST_EMULATOR)

#define KERNEL extern "C" __global__ void
#define KERNEL_BOUNDS(threads, blocks) extern "C" __global__ __launch_bounds__(threads, blocks) void
#define DYNAMIC_SHARED(name) extern __shared__ __align__(128) unsigned char name[]
#define DEVICE __device__ __forceinline__

// Two floats as two bf16, rounded to nearest even; `low` is the lower half.
DEVICE u32 pack2(float low, float high) {
    u32 packed;
    asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(packed) : "f"(high), "f"(low));
    return packed;
}

DEVICE bf16 to_bf16(float value) {
    bf16 rounded;
    asm("cvt.rn.bf16.f32 %0, %1;" : "=h"(rounded.bits) : "f"(value));
    return rounded;
}

// 2 to the power of `x`, to about two units in the last place; 0 for minus infinity.
DEVICE float exp2_fast(float x) {
    float y;
    asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
    return y;
}

// D[16, 8] += A[16, 16] * B[16, 8] in bf16 with float sums (PTX mma.m16n8k16). With g = lane / 4 and t = lane % 4:
// a[0] = A[g][2t, 2t+1], a[1] = A[g+8][2t..], a[2] = A[g][2t+8..], a[3] = A[g+8][2t+8..];
// b[0] = B[2t, 2t+1][g], b[1] = B[2t+8, 2t+9][g]; d[0], d[1] = D[g][2t, 2t+1], d[2], d[3] = D[g+8][2t, 2t+1].
DEVICE void mma_16816(float (&d)[4], const u32 (&a)[4], const u32 (&b)[2]) {
    asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
                 : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}

DEVICE u32 shared_address(const void* pointer) {
    return (u32)__cvta_generic_to_shared(pointer);
}

// Four 8x8 matrices of 16-bit elements from shared memory (PTX ldmatrix): lane l gives the address of row l % 8 of matrix
// l / 8, 16 bytes aligned to 16; r[i] gets elements 2t, 2t+1 of row g of matrix i.
DEVICE void ldmatrix4(u32 (&r)[4], const void* row) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3]) : "r"(shared_address(row)) : "memory");
}

// The same, each matrix transposed: r[i] gets elements (2t, g) and (2t+1, g) of matrix i.
DEVICE void ldmatrix4_transposed(u32 (&r)[4], const void* row) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0,%1,%2,%3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3]) : "r"(shared_address(row)) : "memory");
}

// Starts a copy of 16 bytes into shared memory; with `valid` false, 16 zero bytes. `cp_async_wait<n>` waits until at most
// the newest n groups are on their way. What other threads copied is there only after a barrier that follows their wait.
DEVICE void cp_async16(void* shared, const void* global, bool valid) {
    const int bytes = valid ? 16 : 0;
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;"
                 :: "r"(shared_address(shared)), "l"(global), "r"(bytes) : "memory");
}

DEVICE void cp_async_commit() {
    asm volatile("cp.async.commit_group;" ::: "memory");
}

template <int pending>
DEVICE void cp_async_wait() {
    asm volatile("cp.async.wait_group %0;" :: "n"(pending) : "memory");
}

#endif

DEVICE float bits_to_float(u32 bits) {
    return __uint_as_float(bits);
}

DEVICE float to_float(float value) {
    return value;
}

DEVICE float to_float(bf16 value) {
    return bits_to_float((u32)value.bits << 16);
}

DEVICE float low_half(u32 packed) {
    return bits_to_float(packed << 16);
}

DEVICE float high_half(u32 packed) {
    return bits_to_float(packed & 0xffff0000u);
}

// `value` as a `real`.
template <typename T>
DEVICE T from_float(float value);

template <>
DEVICE float from_float<float>(float value) {
    return value;
}

template <>
DEVICE bf16 from_float<bf16>(float value) {
    return to_bf16(value);
}

// Eight elements that are next to each other, loaded and stored with the widest instructions there are. The address is a
// multiple of 16 bytes.
struct Eight {
    float at[8];
};

DEVICE Eight load8(const float* source) {
    const float4 first = reinterpret_cast<const float4*>(source)[0], second = reinterpret_cast<const float4*>(source)[1];
    Eight values = {{first.x, first.y, first.z, first.w, second.x, second.y, second.z, second.w}};
    return values;
}

DEVICE Eight load8(const bf16* source) {
    const uint4 packed = *reinterpret_cast<const uint4*>(source);
    Eight values = {{low_half(packed.x), high_half(packed.x), low_half(packed.y), high_half(packed.y), low_half(packed.z),
                     high_half(packed.z), low_half(packed.w), high_half(packed.w)}};
    return values;
}

DEVICE void store8(float* target, const Eight& values) {
    reinterpret_cast<float4*>(target)[0] = make_float4(values.at[0], values.at[1], values.at[2], values.at[3]);
    reinterpret_cast<float4*>(target)[1] = make_float4(values.at[4], values.at[5], values.at[6], values.at[7]);
}

DEVICE void store8(bf16* target, const Eight& values) {
    *reinterpret_cast<uint4*>(target) =
        make_uint4(pack2(values.at[0], values.at[1]), pack2(values.at[2], values.at[3]),
                   pack2(values.at[4], values.at[5]), pack2(values.at[6], values.at[7]));
}

DEVICE bool is_aligned(const void* pointer) {
    return ((u64)pointer & 15) == 0;
}

// Eight elements as they lie in memory.
#if defined(REAL_BF16)
typedef uint4 Group;

DEVICE Group load_whole(const real* source) {
    return *reinterpret_cast<const uint4*>(source);
}

DEVICE Eight widened(const Group& group) {
    Eight values = {{low_half(group.x), high_half(group.x), low_half(group.y), high_half(group.y), low_half(group.z),
                     high_half(group.z), low_half(group.w), high_half(group.w)}};
    return values;
}
#else
typedef Eight Group;

DEVICE Group load_whole(const real* source) {
    return load8(source);
}

DEVICE Eight widened(const Group& group) {
    return group;
}
#endif

// The first `left` of eight elements, zeros after them. With `whole`, they are aligned and all there.
template <bool whole, typename T>
DEVICE Eight load_group(const T* source, u32 left) {
    if (whole) return load8(source);
    Eight values;
#pragma unroll
    for (u32 i = 0; i < 8; i++) values.at[i] = i < left ? to_float(source[i]) : 0.0f;
    return values;
}

template <bool whole, typename T>
DEVICE void store_group(T* target, const Eight& values, u32 left) {
    if (whole) {
        store8(target, values);
        return;
    }
#pragma unroll
    for (u32 i = 0; i < 8; i++) {
        if (i < left) target[i] = from_float<T>(values.at[i]);
    }
}

// Eights of a row, the last of them perhaps in part.
DEVICE u32 groups_of(u32 width) {
    return (width + 7) / 8;
}

DEVICE u64 this_thread() {
    return (u64)blockIdx.x * blockDim.x + threadIdx.x;
}

DEVICE u64 all_threads() {
    return (u64)gridDim.x * blockDim.x;
}

// Sum over the 32 lanes of a warp, the same in each; always in the same order.
template <typename T>
DEVICE T warp_sum(T value) {
    for (int offset = 16; offset > 0; offset /= 2) value += __shfl_xor_sync(0xffffffffu, value, offset);
    return value;
}

DEVICE float warp_max(float value) {
    for (int offset = 16; offset > 0; offset /= 2) value = fmaxf(value, __shfl_xor_sync(0xffffffffu, value, offset));
    return value;
}

// Sum over a block of whole warps, the same in each thread. `room` is shared memory for 32 elements; what it holds
// afterwards is of no use, and the call begins and ends with a barrier.
template <typename T>
DEVICE T block_sum(T value, T* room) {
    value = warp_sum(value);
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32, warps = blockDim.x / 32;
    __syncthreads();
    if (lane == 0) room[warp] = value;
    __syncthreads();
    T total = lane < warps ? room[lane] : T(0);
    total = warp_sum(total);
    __syncthreads();
    return total;
}
