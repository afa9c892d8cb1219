// cuBLASLt's functions that are called: products of bf16 or float matrices, with float sums. Columns come first, as there.
#include <dlfcn.h>

#include <cstdint>
#include <cstdio>
#include <cstring>
#include <algorithm>
#include <vector>

#define EXPORT extern "C" __attribute__((visibility("default")))
enum { OK = 0, INVALID_VALUE = 7, NOT_SUPPORTED = 15, F32 = 0, BF16 = 14 };
struct Layout { int type; uint64_t rows, columns; int64_t leading; };
struct Description { int compute, transpose_a = 0, transpose_b = 0; };
struct Preference { uint64_t workspace = 0; uint32_t aligned[4] = {256, 256, 256, 256}; };
struct Algorithm { uint64_t data[8]; };
struct Heuristic { Algorithm algorithm; size_t workspace; int state; float waves; int reserved[4]; };

template <typename T> static T driver(const char* name) {
    void* library = dlopen("libcuda.so.1", RTLD_NOW | RTLD_NOLOAD);
    void* found = library ? dlsym(library, name) : nullptr;
    if (!found) found = dlsym(RTLD_DEFAULT, name);
    T function;
    memcpy(&function, &found, sizeof function);
    return function;
}

static float value(const void* matrix, int type, size_t at) {
    if (type == F32) return ((const float*)matrix)[at];
    const uint32_t bits = (uint32_t)((const uint16_t*)matrix)[at] << 16;
    float number;
    memcpy(&number, &bits, 4);
    return number;
}
static void put(void* matrix, int type, size_t at, float number) {
    if (type == F32) { ((float*)matrix)[at] = number; return; }
    uint32_t bits;
    memcpy(&bits, &number, 4);
    ((uint16_t*)matrix)[at] = (bits & 0x7fffffff) > 0x7f800000 ? 0x7fff : (bits + 0x7fff + (bits >> 16 & 1)) >> 16;
}

struct Product { Description description; Layout a, b, c; float alpha, beta; const void *pa, *pb, *pc; void* pd; };

static void compute(void* data) {
    Product& p = *(Product*)data;
    const size_t m = p.c.rows, n = p.c.columns, k = p.description.transpose_a ? p.a.rows : p.a.columns;
    std::vector<float> a(m * k), b(k * n), sums(m);
    for (size_t i = 0; i < m; i++)
        for (size_t l = 0; l < k; l++)
            a[l * m + i] = value(p.pa, p.a.type, p.description.transpose_a ? i * p.a.leading + l : l * p.a.leading + i);
    for (size_t l = 0; l < k; l++)
        for (size_t j = 0; j < n; j++)
            b[j * k + l] = value(p.pb, p.b.type, p.description.transpose_b ? l * p.b.leading + j : j * p.b.leading + l);
    for (size_t j = 0; j < n; j++) {
        std::fill(sums.begin(), sums.end(), 0.0f);
        for (size_t l = 0; l < k; l++) {
            const float factor = b[j * k + l];
            const float* const column = &a[l * m];
            for (size_t i = 0; i < m; i++) sums[i] += column[i] * factor;
        }
        for (size_t i = 0; i < m; i++) {
            const size_t at = j * p.c.leading + i;
            const float old = p.beta == 0.0f ? 0.0f : p.beta * value(p.pc, p.c.type, at);
            put(p.pd, p.c.type, at, p.alpha * sums[i] + old);
        }
    }
}

EXPORT int cublasLtCreate(void** handle) { static int the; *handle = &the; return OK; }
EXPORT int cublasLtDestroy(void*) { return OK; }
EXPORT size_t cublasLtGetVersion() { return 120405; }
EXPORT const char* cublasLtGetStatusString(int status) {
    return status == OK ? "CUBLAS_STATUS_SUCCESS" : status == INVALID_VALUE ? "CUBLAS_STATUS_INVALID_VALUE" : "CUBLAS_STATUS_NOT_SUPPORTED";
}
EXPORT int cublasLtMatmulDescCreate(Description** description, int compute, int scale) {
    *description = new Description{compute};
    return scale == F32 ? OK : NOT_SUPPORTED;
}
EXPORT int cublasLtMatmulDescDestroy(Description* description) { delete description; return OK; }
EXPORT int cublasLtMatmulDescSetAttribute(Description* description, int attribute, const void* value, size_t bytes) {
    if (bytes != 4 || (attribute != 3 && attribute != 4)) return INVALID_VALUE;
    memcpy(attribute == 3 ? &description->transpose_a : &description->transpose_b, value, 4);
    return OK;
}
EXPORT int cublasLtMatrixLayoutCreate(Layout** layout, int type, uint64_t rows, uint64_t columns, int64_t leading) {
    *layout = new Layout{type, rows, columns, leading};
    return (type == F32 || type == BF16) && leading >= (int64_t)rows ? OK : INVALID_VALUE;
}
EXPORT int cublasLtMatrixLayoutDestroy(Layout* layout) { delete layout; return OK; }
EXPORT int cublasLtMatmulPreferenceCreate(Preference** preference) { *preference = new Preference; return OK; }
EXPORT int cublasLtMatmulPreferenceDestroy(Preference* preference) { delete preference; return OK; }
EXPORT int cublasLtMatmulPreferenceSetAttribute(Preference* preference, int attribute, const void* value, size_t bytes) {
    if (attribute == 1 && bytes == 8) memcpy(&preference->workspace, value, 8);
    else if (attribute >= 5 && attribute <= 8 && bytes == 4) memcpy(&preference->aligned[attribute - 5], value, 4);
    else return INVALID_VALUE;
    return OK;
}
EXPORT int cublasLtMatmulAlgoGetHeuristic(void*, Description* description, Layout* a, Layout* b, Layout* c, Layout* d,
                                          Preference* preference, int wanted, Heuristic* results, int* found) {
    *found = 0;
    const uint64_t m = d->rows, n = d->columns;
    const uint64_t am = description->transpose_a ? a->columns : a->rows, ak = description->transpose_a ? a->rows : a->columns;
    const uint64_t bn = description->transpose_b ? b->rows : b->columns, bk = description->transpose_b ? b->columns : b->rows;
    if (wanted < 1 || description->compute != 68 || am != m || bn != n || ak != bk) return INVALID_VALUE;
    if (a->type != b->type || c->type != d->type || (a->type == F32 && d->type != F32)) return NOT_SUPPORTED;
    memset(results, 0, sizeof *results);
    for (int i = 0; i < 4; i++) results->algorithm.data[i] = preference->aligned[i];
    results->workspace = preference->workspace;
    *found = 1;
    return OK;
}
EXPORT int cublasLtMatmul(void*, Description* description, const float* alpha, const void* pa, Layout* a, const void* pb, Layout* b,
                          const float* beta, const void* pc, Layout* c, void* pd, Layout* d, const Algorithm* algorithm,
                          void* workspace, size_t workspace_bytes, void*) {
    static auto enqueue = driver<void (*)(void (*)(void*), void*, void (*)(void*))>("host_emulator_enqueue");
    static auto is_inside = driver<bool (*)(uint64_t, size_t)>("host_emulator_is_inside");
    const void* pointers[4] = {pa, pb, pc, pd};
    const Layout* layouts[4] = {a, b, c, d};
    for (int i = 0; i < 4; i++) {
        const Layout& layout = *layouts[i];
        const size_t bytes = (layout.leading * (layout.columns - 1) + layout.rows) * (layout.type == F32 ? 4 : 2);
        if (!is_inside((uint64_t)pointers[i], bytes) || (uint64_t)pointers[i] % algorithm->data[i]) {
            fprintf(stderr, "emulator: operand %d of a product is outside of its memory or not aligned\n", i);
            return INVALID_VALUE;
        }
    }
    if (!is_inside((uint64_t)workspace, workspace_bytes)) return INVALID_VALUE;
    enqueue(compute, new Product{*description, *a, *b, *d, *alpha, *beta, pa, pb, pc, pd}, [](void* data) { delete (Product*)data; });
    return OK;
}
