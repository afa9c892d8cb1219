// cuDNN's functions that are called: graphs of one operation, causal attention of documents whose rows lie one after another,
// and its backward pass. What each attribute means is said in NVIDIA's cudnn_graph.h. The answer is computed in double
// precision and rounded once; a graph that is anything else is refused.
#include <dlfcn.h>

#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <map>
#include <string>
#include <vector>

#define EXPORT extern "C" __attribute__((visibility("default")))
enum { OK = 0, BAD_PARAM = 2000, NOT_SUPPORTED = 3000, FAILED = 5000 };
enum { ENGINE = 2, CONFIG = 3, HEURISTIC = 4, PLAN = 5, GRAPH = 15, PACK = 16, TENSOR = 17, FORWARD = 41, BACKWARD = 43, MASK = 44, SOFTMAX = 45 };
enum { TYPE_F32 = 0, TYPE_I32 = 4, TYPE_BF16 = 9, TYPE_I64 = 10 };
enum { HANDLE = 0, DATA_TYPE = 1, BOOLEAN = 2, INT64 = 3, ADDRESS = 6, MODE = 8, NOTE = 11, POINTWISE = 14, DESCRIPTOR = 15 };

template <typename T> static T driver(const char* name) {
    void* library = dlopen("libcuda.so.1", RTLD_NOW | RTLD_NOLOAD);
    void* found = library ? dlsym(library, name) : nullptr;
    if (!found) found = dlsym(RTLD_DEFAULT, name);
    T function;
    memcpy(&function, &found, sizeof function);
    return function;
}

struct Attribute { int type; std::vector<int64_t> values; };
struct Descriptor {
    int kind;
    bool finished = false;
    std::map<int, Attribute> attributes;
    bool has(int name) const { return attributes.count(name); }
    int64_t number(int name) const { return attributes.at(name).values.at(0); }
    const std::vector<int64_t>& numbers(int name) const { return attributes.at(name).values; }
    Descriptor& other(int name) const { return *(Descriptor*)number(name); }
};
static thread_local std::string words;
static int refuse(int status, const std::string& why) { words = why; return status; }
static size_t size_of(int type) { return type == DATA_TYPE || type == MODE || type == NOTE || type == POINTWISE ? 4 : type == BOOLEAN ? 1 : 8; }

// HOST_EMULATOR_CUDNN: `wrong` results, `random` ones, only `forward`, or `none` at all, all `failing` when they are run; HOST_EMULATOR_CUDNN_VERSION.
static std::string behaviour() { const char* text = getenv("HOST_EMULATOR_CUDNN"); return text ? text : ""; }

EXPORT size_t cudnnGetVersion() { const char* text = getenv("HOST_EMULATOR_CUDNN_VERSION"); return text ? strtoull(text, 0, 10) : 92600; }
EXPORT size_t cudnnGetCudartVersion() { return 12040; }
EXPORT const char* cudnnGetErrorString(int status) {
    return status == OK ? "CUDNN_STATUS_SUCCESS" : status == BAD_PARAM ? "CUDNN_STATUS_BAD_PARAM" :
           status == NOT_SUPPORTED ? "CUDNN_STATUS_NOT_SUPPORTED" : "CUDNN_STATUS_EXECUTION_FAILED";
}
EXPORT void cudnnGetLastErrorString(char* text, size_t room) { snprintf(text, room, "%s", words.c_str()); words.clear(); }
EXPORT int cudnnCreate(void** handle) { static int the; *handle = &the; return OK; }
EXPORT int cudnnDestroy(void*) { return OK; }
EXPORT int cudnnSetStream(void*, void*) { return OK; }
EXPORT int cudnnBackendCreateDescriptor(int kind, Descriptor** made) { *made = new Descriptor{kind}; return OK; }
EXPORT int cudnnBackendDestroyDescriptor(Descriptor* descriptor) { delete descriptor; return OK; }
EXPORT int cudnnBackendSetAttribute(Descriptor* descriptor, int name, int type, int64_t count, const void* values) {
    if (descriptor->finished) return refuse(BAD_PARAM, "a finished descriptor is not changed");
    Attribute attribute{type, {}};
    for (int64_t i = 0; i < count; i++) {
        int64_t value = 0;
        memcpy(&value, (const char*)values + i * size_of(type), size_of(type));
        if (type == DESCRIPTOR && (!value || !((Descriptor*)value)->finished)) return refuse(BAD_PARAM, "a descriptor that is not finished");
        attribute.values.push_back(value);
    }
    descriptor->attributes[name] = attribute;
    return OK;
}

struct Tensor { int64_t id, type; std::vector<int64_t> sizes, strides; int64_t offsets; };
static Tensor tensor(const Descriptor& d) {
    return {d.number(906), d.number(901), d.numbers(902), d.numbers(903), d.has(913) ? d.other(913).number(906) : 0};
}
struct Names { int query, key, value, out, scale, query_lens, key_lens, graph, graph_in, graph_out; };
static const Names NAMES[2] = {{2800, 2801, 2802, 2803, 2805, 2809, 2810, 2811, 2812, 2813}, {2851, 2852, 2853, 2854, 2856, 2857, 2858, 2867, 2868, 2869}};

// What is wrong with an operation, if anything.
static std::string wrong(const Descriptor& op) {
    const bool backward = op.kind == BACKWARD;
    const Names& names = NAMES[backward];
    std::vector<int> needed = {names.query, names.key, names.value, names.out, names.scale, names.query_lens, names.key_lens, names.graph, names.graph_in, names.graph_out};
    if (backward) needed.insert(needed.end(), {2855, 2859, 2860, 2861, 2862}); else needed.push_back(2814);
    for (int name : needed) if (!op.has(name)) return "attribute " + std::to_string(name) + " is missing";
    const Descriptor& graph = op.other(names.graph);
    const Descriptor& mask = graph.other(801);
    if (mask.kind != MASK || mask.number(3007) != 303) return "the sub-graph is not a causal mask";
    if (mask.other(3000).number(906) != op.number(names.graph_in) || mask.other(3006).number(906) != op.number(names.graph_out)) return "the sub-graph's ends are others";
    if (!mask.other(3005).has(908) || !op.other(names.scale).has(908)) return "scalars come by value";
    Tensor q = tensor(op.other(names.query)), k = tensor(op.other(names.key)), lens = tensor(op.other(names.query_lens));
    if (q.type != TYPE_BF16 || q.sizes.size() != 4 || lens.type != TYPE_I32 || lens.sizes[0] != q.sizes[0]) return "sizes or types";
    if (q.sizes[1] % k.sizes[1] || k.sizes[0] != q.sizes[0] || k.sizes[2] != q.sizes[2] || k.sizes[3] != q.sizes[3]) return "heads";
    if (!q.offsets || !k.offsets) return "rows are not where offsets say";
    return "";
}
EXPORT int cudnnBackendFinalize(Descriptor* d) {
    if ((d->kind == FORWARD || d->kind == BACKWARD) && !wrong(*d).empty()) return refuse(BAD_PARAM, wrong(*d));
    if (d->kind == GRAPH && d->other(801).kind != MASK && !d->has(800)) return refuse(BAD_PARAM, "a graph without a handle");
    if (d->kind == PLAN && (behaviour() == "none" || (behaviour() == "forward" && d->other(401).other(201).other(801).kind == BACKWARD))) return refuse(NOT_SUPPORTED, "no kernel for this device");
    d->finished = true;
    return OK;
}
static size_t workspace(const Descriptor& op) {
    Tensor q = tensor(op.other(NAMES[op.kind == BACKWARD].query));
    return op.kind == BACKWARD ? 3 * 4 * q.sizes[0] * q.sizes[1] * q.sizes[2] * q.sizes[3] : 4096;
}
EXPORT int cudnnBackendGetAttribute(Descriptor* d, int name, int type, int64_t room, int64_t* count, void* values) {
    if (d->kind == HEURISTIC && name == 202 && type == DESCRIPTOR && room >= 1) {
        (*(Descriptor**)values)->attributes[201] = d->attributes.at(201);
        (*(Descriptor**)values)->finished = true;
        *count = 1;
    } else if (d->kind == CONFIG && name == 300) {
        *count = 1;
    } else if (d->kind == ENGINE && name == 1303) {
        *(int*)values = 0;
        *count = 1;
    } else if (d->kind == PLAN && name == 402) {
        *(int64_t*)values = workspace(d->other(401).other(201).other(801));
        *count = 1;
    } else {
        return refuse(BAD_PARAM, "an attribute that is not read");
    }
    return OK;
}

struct Work { Descriptor op; std::map<int64_t, char*> at; float scale; };
static float from_bf16(uint16_t half) { uint32_t bits = (uint32_t)half << 16; float number; memcpy(&number, &bits, 4); return number; }
static uint16_t to_bf16(float number) { uint32_t bits; memcpy(&bits, &number, 4); return (bits & 0x7fffffff) > 0x7f800000 ? 0x7fff : (bits + 0x7fff + (bits >> 16 & 1)) >> 16; }

// Rows of one head of one document.
struct Head {
    std::vector<double> all(int64_t n, int64_t width) const {
        std::vector<double> found(n * width);
        for (int64_t i = 0; i < n; i++) for (int64_t c = 0; c < width; c++) found[i * width + c] = get(i, c);
        return found;
    }
    char* start; int64_t row, type;
    double get(int64_t i, int64_t c) const { const int64_t at = i * row + c; return type == TYPE_F32 ? ((float*)start)[at] : from_bf16(((uint16_t*)start)[at]); }
    void put(int64_t i, int64_t c, double v) const { const int64_t at = i * row + c; if (type == TYPE_F32) ((float*)start)[at] = (float)v; else ((uint16_t*)start)[at] = to_bf16((float)v); }
};
static Head head(const Work& work, const Tensor& t, int64_t document, int64_t h) {
    const int64_t first = ((const int64_t*)work.at.at(t.offsets))[document];
    return {work.at.at(t.id) + (first + h * t.strides[1]) * (t.type == TYPE_F32 ? 4 : 2), t.strides[2], t.type};
}
static void compute(void* data) {
    Work& work = *(Work*)data;
    const bool backward = work.op.kind == BACKWARD;
    const Names& names = NAMES[backward];
    auto get = [&](int name) { return tensor(work.op.other(name)); };
    const Tensor q = get(names.query), k = get(names.key), v = get(names.value), o = get(names.out);
    const Tensor stats = backward ? get(2855) : tensor(work.op.other(2814).other(3102));
    const int64_t heads = q.sizes[1], group = heads / k.sizes[1], width = q.sizes[3];
    static int runs;
    const double off = behaviour() == "wrong" ? 1.1 : behaviour() == "random" ? 1.0 + 0.004 * (runs++ % 2) : 1.0;
    for (int64_t document = 0; document < q.sizes[0]; document++) {
        const int64_t n = ((const int32_t*)work.at.at(get(names.query_lens).id))[document];
        if (n > q.sizes[2] || n != ((const int32_t*)work.at.at(get(names.key_lens).id))[document]) { fprintf(stderr, "emulator: a document of %ld rows\n", (long)n); abort(); }
        for (int64_t kv = 0; kv < k.sizes[1]; kv++) {
            const std::vector<double> key = head(work, k, document, kv).all(n, width), value = head(work, v, document, kv).all(n, width);
            std::vector<double> dk(n * width), dv(n * width);
            for (int64_t h = kv * group; h < (kv + 1) * group; h++) {
                const Head out = head(work, o, document, h), lse = head(work, stats, document, h);
                const std::vector<double> query = head(work, q, document, h).all(n, width);
                std::vector<double> outs, douts;
                if (backward) { outs = out.all(n, width); douts = head(work, get(2862), document, h).all(n, width); }
                for (int64_t i = 0; i < n; i++) {
                    std::vector<double> s(i + 1), sums(width);
                    double most = -INFINITY, total = 0;
                    for (int64_t j = 0; j <= i; j++) {
                        for (int64_t c = 0; c < width; c++) s[j] += query[i * width + c] * key[j * width + c];
                        s[j] *= work.scale;
                        most = std::max(most, s[j]);
                    }
                    if (!backward) {
                        for (int64_t j = 0; j <= i; j++) {
                            const double share = exp(s[j] - most);
                            total += share;
                            for (int64_t c = 0; c < width; c++) sums[c] += share * value[j * width + c];
                        }
                        for (int64_t c = 0; c < width; c++) out.put(i, c, off * sums[c] / total);
                        lse.put(i, 0, most + log(total));
                        continue;
                    }
                    const Head dquery = head(work, get(2859), document, h);
                    double delta = 0;
                    for (int64_t c = 0; c < width; c++) delta += douts[i * width + c] * outs[i * width + c];
                    for (int64_t j = 0; j <= i; j++) {
                        const double share = exp(s[j] - lse.get(i, 0));
                        double ds = -delta;
                        for (int64_t c = 0; c < width; c++) ds += douts[i * width + c] * value[j * width + c];
                        ds *= share * work.scale;
                        for (int64_t c = 0; c < width; c++) {
                            dv[j * width + c] += share * douts[i * width + c];
                            dk[j * width + c] += ds * query[i * width + c];
                            sums[c] += ds * key[j * width + c];
                        }
                    }
                    for (int64_t c = 0; c < width; c++) dquery.put(i, c, off * sums[c]);
                }
            }
            if (!backward) continue;
            const Head dkey = head(work, get(2860), document, kv), dvalue = head(work, get(2861), document, kv);
            for (int64_t i = 0; i < n; i++)
                for (int64_t c = 0; c < width; c++) { dkey.put(i, c, dk[i * width + c]); dvalue.put(i, c, dv[i * width + c]); }
        }
    }
}
EXPORT int cudnnBackendExecute(void*, Descriptor* plan, Descriptor* pack) {
    static auto enqueue = driver<void (*)(void (*)(void*), void*, void (*)(void*))>("host_emulator_enqueue");
    static auto is_inside = driver<bool (*)(uint64_t, size_t)>("host_emulator_is_inside");
    if (behaviour() == "failing") return refuse(FAILED, "no luck");
    const Descriptor& op = plan->other(401).other(201).other(801);
    const std::vector<int64_t>&ids = pack->numbers(1000), &pointers = pack->numbers(1001);
    if (ids.size() != pointers.size()) return refuse(BAD_PARAM, "as many addresses as tensors");
    Work* work = new Work{op, {}, 0};
    for (size_t i = 0; i < ids.size(); i++) work->at[ids[i]] = (char*)pointers[i];
    const Names& names = NAMES[op.kind == BACKWARD];
    if (!is_inside(pack->number(1003), workspace(op))) return refuse(BAD_PARAM, "the workspace is too small");
    std::vector<int> all = {names.query, names.key, names.value, names.out, names.query_lens, names.key_lens};
    if (op.kind == BACKWARD) all.insert(all.end(), {2855, 2859, 2860, 2861, 2862});
    for (int name : all) {
        const Tensor t = tensor(op.other(name));
        if (!work->at.count(t.id) || !is_inside((uint64_t)work->at[t.id], 16) || (uint64_t)work->at[t.id] % 16) return refuse(BAD_PARAM, "tensor " + std::to_string(name) + " is nowhere");
        if (t.offsets && !work->at.count(t.offsets)) return refuse(BAD_PARAM, "offsets are nowhere");
    }
    work->scale = *(const float*)work->at.at(op.other(names.scale).number(906));
    // The descriptors that the operation refers to stay with the plan.
    enqueue(compute, work, [](void* data) { delete (Work*)data; });
    return OK;
}
