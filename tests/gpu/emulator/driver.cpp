// The CUDA driver's functions that are called, for a device that is the CPU (device.h). See README.md.
#include <dlfcn.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#define EXPORT extern "C" __attribute__((visibility("default")))
typedef int Status;
enum { OK = 0, INVALID_VALUE = 1, OUT_OF_MEMORY = 2, NO_DEVICE = 100, INVALID_CONTEXT = 201, NOT_FOUND = 500, UNKNOWN = 999,
       OUT_OF_RESOURCES = 701, INVALID_IMAGE = 200, CAPTURE_UNSUPPORTED = 900, CAPTURE_INVALIDATED = 901, ILLEGAL_STATE = 401 };

static uint64_t knob(const char* name, uint64_t otherwise) {
    const char* text = getenv(name);
    return text ? strtoull(text, nullptr, 10) : otherwise;
}
static const uint64_t DEVICES = knob("HOST_EMULATOR_DEVICES", 1), MEMORY = knob("HOST_EMULATOR_MEMORY", 4ull << 30),
                      CAPABILITY = knob("HOST_EMULATOR_CAPABILITY", 90), DRIVER = knob("HOST_EMULATOR_DRIVER", 12040);
static uint64_t seed = knob("HOST_EMULATOR_SEED", 1);

// HOST_EMULATOR_FAIL=function:n lets the nth call of a function fail.
static bool fails(const char* name) {
    static std::string wanted;
    static uint64_t calls;
    const char* now = getenv("HOST_EMULATOR_FAIL");
    if (wanted != (now ? now : "")) wanted = now ? now : "", calls = 0;
    const size_t colon = wanted.find(':');
    return colon != std::string::npos && wanted.compare(0, colon, name) == 0 && ++calls == strtoull(wanted.c_str() + colon + 1, 0, 10);
}

struct Allocation { unsigned char* map; size_t bytes, mapped; bool freed; };
struct Kernel { std::string name; unsigned most, count; size_t permitted; void (*run)(const uint64_t*, unsigned, unsigned, unsigned, size_t, uint64_t); };
static std::recursive_mutex lock;
static std::map<uint64_t, Allocation> allocations;
static std::map<uint64_t, size_t> pinned;
static uint64_t used, most_used;
static std::deque<std::function<void()>> queue;
struct Graph { std::vector<std::function<void()>> work; };
// What this thread captures, and whether it asked for something that a graph cannot hold. Threads have their own contexts
// here, which share one queue; so a capture is a thread's, not a stream's.
static thread_local Graph* capture;
static thread_local bool invalidated;
static thread_local void* current;
static int the_context, the_stream, the_pool;
typedef std::lock_guard<std::recursive_mutex> Guard;

// What was asked for happens late, at a point that nobody may rely on.
static void flush() {
    while (!queue.empty()) {
        auto work = std::move(queue.front());
        queue.pop_front();
        work();
    }
}
static void enqueue(std::function<void()> work) {
    if (capture) return capture->work.push_back(std::move(work));
    queue.push_back(std::move(work));
    seed = seed * 6364136223846793005ull + 1442695040888963407ull;
    if (queue.size() > 8 + (seed >> 33) % 56) flush();
}
// Whether so many bytes from an address on are of one allocation.
static bool is_inside(uint64_t pointer, size_t bytes) {
    auto found = allocations.upper_bound(pointer);
    if (found == allocations.begin()) return false;
    --found;
    return !found->second.freed && pointer + bytes <= found->first + found->second.bytes;
}
#define ENTER(name) Guard guard(lock); if (fails(name)) return UNKNOWN; if (!current) return INVALID_CONTEXT
// For what may not be in a graph.
#define ENTER_AT_ONCE(name) ENTER(name); if (capture) { invalidated = true; return CAPTURE_UNSUPPORTED; }

// Queues work on data, which is dropped when nobody can ask for the work again.
EXPORT void host_emulator_enqueue(void (*work)(void*), void* data, void (*drop)(void*)) {
    Guard guard(lock);
    enqueue([work, data = std::shared_ptr<void>(data, drop)] { work(data.get()); });
}
EXPORT bool host_emulator_is_inside(uint64_t pointer, size_t bytes) { Guard guard(lock); return is_inside(pointer, bytes); }
EXPORT uint64_t host_emulator_used() { return used; }

EXPORT Status cuInit(unsigned) { return fails("cuInit") ? UNKNOWN : DEVICES == 0 ? NO_DEVICE : OK; }
EXPORT Status cuDriverGetVersion(int* version) { *version = (int)DRIVER; return OK; }
EXPORT Status cuDeviceGetCount(int* count) { *count = (int)DEVICES; return OK; }
EXPORT Status cuDeviceGet(int* device, int ordinal) { *device = ordinal; return (uint64_t)ordinal < DEVICES ? OK : 101; }
EXPORT Status cuDeviceGetName(char* name, int length, int device) { snprintf(name, length, "Emulated GPU %d", device); return OK; }
EXPORT Status cuDeviceGetUuid_v2(unsigned char* uuid, int device) { memset(uuid, device + 1, 16); return OK; }
EXPORT Status cuDeviceTotalMem_v2(size_t* bytes, int) { *bytes = MEMORY; return OK; }
EXPORT Status cuDeviceGetAttribute(int* value, int attribute, int) {
    switch (attribute) {
        case 16: *value = (int)knob("HOST_EMULATOR_MULTIPROCESSORS", 4); return OK;
        case 75: *value = (int)CAPABILITY / 10; return OK;
        case 76: *value = (int)CAPABILITY % 10; return OK;
        case 97: *value = CAPABILITY >= 90 ? 227 << 10 : CAPABILITY >= 80 ? 163 << 10 : 64 << 10; return OK;
        default: fprintf(stderr, "emulator: attribute %d is not known\n", attribute); return INVALID_VALUE;
    }
}
EXPORT Status cuDevicePrimaryCtxRetain(void** context, int) { *context = &the_context; return OK; }
EXPORT Status cuDevicePrimaryCtxRelease_v2(int) { Guard guard(lock); flush(); current = nullptr; return OK; }
EXPORT Status cuCtxSetCurrent(void* context) { current = context; return OK; }
EXPORT Status cuMemGetInfo_v2(size_t* free, size_t* total) { *free = MEMORY - used; *total = MEMORY; return OK; }
EXPORT Status cuStreamCreate(void** stream, unsigned) { ENTER("cuStreamCreate"); *stream = &the_stream; return OK; }
EXPORT Status cuStreamDestroy_v2(void*) { return OK; }
EXPORT Status cuStreamSynchronize(void*) { ENTER_AT_ONCE("cuStreamSynchronize"); flush(); return OK; }
EXPORT Status cuDeviceGetDefaultMemPool(void** pool, int) { *pool = &the_pool; return OK; }
EXPORT Status cuMemPoolSetAttribute(void*, int, void*) { return OK; }
EXPORT Status cuMemPoolGetAttribute(void*, int attribute, void* value) {
    Guard guard(lock);
    if (attribute != 6) return INVALID_VALUE;
    *(uint64_t*)value = most_used;
    return OK;
}

// Memory ends at a page that may not be touched, and begins as NaN.
EXPORT Status cuMemAllocAsync(uint64_t* pointer, size_t bytes, void*) {
    ENTER_AT_ONCE("cuMemAllocAsync");
    if (used + bytes > MEMORY) return OUT_OF_MEMORY;
    const size_t page = 4096, room = (bytes + 255) / 256 * 256, mapped = (room + page - 1) / page * page + 2 * page;
    unsigned char* map = (unsigned char*)mmap(nullptr, mapped, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (map == MAP_FAILED || mprotect(map + page, mapped - 2 * page, PROT_READ | PROT_WRITE)) return OUT_OF_MEMORY;
    unsigned char* start = map + mapped - page - room;
    memset(map + page, 0xff, mapped - 2 * page);
    allocations[(uint64_t)start] = {map, bytes, mapped, false};
    used += bytes;
    if (used > most_used) most_used = used;
    *pointer = (uint64_t)start;
    return OK;
}
EXPORT Status cuMemFreeAsync(uint64_t pointer, void*) {
    ENTER_AT_ONCE("cuMemFreeAsync");
    auto found = allocations.find(pointer);
    if (found == allocations.end() || found->second.freed) return INVALID_VALUE;
    found->second.freed = true;
    used -= found->second.bytes;
    enqueue([=] {
        auto gone = allocations.find(pointer);
        munmap(gone->second.map, gone->second.mapped);
        allocations.erase(gone);
    });
    return OK;
}
EXPORT Status cuMemsetD8Async(uint64_t pointer, unsigned char value, size_t bytes, void*) {
    ENTER("cuMemsetD8Async");
    if (!is_inside(pointer, bytes)) return INVALID_VALUE;
    enqueue([=] { memset((void*)pointer, value, bytes); });
    return OK;
}
EXPORT Status cuMemcpyDtoDAsync_v2(uint64_t to, uint64_t from, size_t bytes, void*) {
    ENTER("cuMemcpyDtoDAsync");
    if (!is_inside(to, bytes) || !is_inside(from, bytes)) return INVALID_VALUE;
    enqueue([=] { memmove((void*)to, (void*)from, bytes); });
    return OK;
}
EXPORT Status cuMemcpyHtoDAsync_v2(uint64_t to, const void* from, size_t bytes, void*) {
    ENTER_AT_ONCE("cuMemcpyHtoDAsync");
    if (!is_inside(to, bytes)) return INVALID_VALUE;
    enqueue([=] { memcpy((void*)to, from, bytes); });
    return OK;
}
EXPORT Status cuMemcpyDtoHAsync_v2(void* to, uint64_t from, size_t bytes, void*) {
    ENTER_AT_ONCE("cuMemcpyDtoHAsync");
    if (!is_inside(from, bytes)) return INVALID_VALUE;
    enqueue([=] { memcpy(to, (void*)from, bytes); });
    return OK;
}
EXPORT Status cuMemAllocHost_v2(void** pointer, size_t bytes) { ENTER_AT_ONCE("cuMemAllocHost"); *pointer = malloc(bytes); return OK; }
EXPORT Status cuMemFreeHost(void* pointer) { ENTER_AT_ONCE("cuMemFreeHost"); flush(); free(pointer); return OK; }
EXPORT Status cuEventCreate(void** event, unsigned) { ENTER_AT_ONCE("cuEventCreate"); *event = malloc(1); return OK; }
EXPORT Status cuEventRecord(void*, void*) { ENTER_AT_ONCE("cuEventRecord"); return OK; }
EXPORT Status cuEventSynchronize(void*) { ENTER_AT_ONCE("cuEventSynchronize"); flush(); return OK; }
EXPORT Status cuEventDestroy_v2(void* event) { free(event); return OK; }

EXPORT Status cuStreamBeginCapture_v2(void*, int mode) {
    ENTER("cuStreamBeginCapture");
    if (capture || mode != 1) return ILLEGAL_STATE;
    capture = new Graph;
    invalidated = false;
    return OK;
}
// Ends the capture even where it fails.
EXPORT Status cuStreamEndCapture(void*, void** graph) {
    Guard guard(lock);
    if (!capture) return ILLEGAL_STATE;
    const bool failed = fails("cuStreamEndCapture");
    *graph = invalidated || failed ? nullptr : capture;
    if (!*graph) delete capture;
    capture = nullptr;
    return invalidated ? CAPTURE_INVALIDATED : failed ? UNKNOWN : OK;
}
EXPORT Status cuGraphInstantiateWithFlags(void** runnable, void* graph, unsigned long long flags) {
    ENTER("cuGraphInstantiate");
    if (!graph || flags) return INVALID_VALUE;
    *runnable = new Graph(*(Graph*)graph);
    return OK;
}
EXPORT Status cuGraphUpload(void* runnable, void*) { ENTER("cuGraphUpload"); return runnable ? OK : INVALID_VALUE; }
EXPORT Status cuGraphLaunch(void* runnable, void*) {
    ENTER("cuGraphLaunch");
    if (capture) { invalidated = true; return CAPTURE_UNSUPPORTED; }
    // What a graph holds is looked at again only when it runs: it may be of memory that is no more.
    for (auto& work : ((Graph*)runnable)->work) enqueue(work);
    return OK;
}
EXPORT Status cuGraphDestroy(void* graph) { Guard guard(lock); delete (Graph*)graph; return OK; }
EXPORT Status cuGraphExecDestroy(void* runnable) { Guard guard(lock); delete (Graph*)runnable; return OK; }

EXPORT Status cuModuleLoadData(void** module, const void* image) {
    ENTER("cuModuleLoadData");
    // A size, then a shared object, as the emulated compiler made it.
    uint64_t bytes;
    memcpy(&bytes, image, 8);
    char path[] = "/tmp/host-emulator-module-XXXXXX";
    const int file = mkstemp(path);
    if (file < 0 || write(file, (const char*)image + 8, bytes) != (ssize_t)bytes) return INVALID_IMAGE;
    close(file);
    *module = dlopen(path, RTLD_NOW | RTLD_LOCAL);
    if (!*module) fprintf(stderr, "emulator: %s\n", dlerror());
    unlink(path);
    return *module ? OK : INVALID_IMAGE;
}
EXPORT Status cuModuleGetFunction(void** function, void* module, const char* name) {
    ENTER("cuModuleGetFunction");
    auto find = [&](const char* what) { return dlsym(module, (std::string("emulated_") + what + "_" + name).c_str()); };
    if (!find("run")) return NOT_FOUND;
    auto* kernel = new Kernel{name, *(unsigned*)find("threads"), *(unsigned*)find("count"), 48 << 10, nullptr};
    *(void**)&kernel->run = find("run");
    *function = kernel;
    return OK;
}
EXPORT Status cuFuncSetAttribute(void* function, int attribute, int value) {
    ENTER("cuFuncSetAttribute");
    int most;
    cuDeviceGetAttribute(&most, 97, 0);
    if (attribute != 8 || value > most) return INVALID_VALUE;
    ((Kernel*)function)->permitted = value;
    return OK;
}
EXPORT Status cuLaunchKernel(void* function, unsigned gx, unsigned gy, unsigned gz, unsigned x, unsigned y, unsigned z,
                             unsigned shared, void*, void** arguments, void** extra) {
    ENTER("cuLaunchKernel");
    Kernel& kernel = *(Kernel*)function;
    if (!gx || !gy || gz != 1 || y != 1 || z != 1 || extra || gy > 65535) return INVALID_VALUE;
    if (x == 0 || x > kernel.most || shared > kernel.permitted) {
        fprintf(stderr, "emulator: %s with %u threads of %u, %u bytes of %zu\n", kernel.name.c_str(), x, kernel.most, shared, kernel.permitted);
        return OUT_OF_RESOURCES;
    }
    std::vector<uint64_t> words(kernel.count);
    for (unsigned i = 0; i < kernel.count; i++) {
        if (!arguments[i]) return INVALID_VALUE;
        memcpy(&words[i], arguments[i], 8);
    }
    const uint64_t order = seed;
    static const bool tells = getenv("HOST_EMULATOR_TRACE");
    enqueue([=, &kernel] {
        if (tells) fprintf(stderr, "emulator: %s <<<%u %u, %u, %u>>>\n", kernel.name.c_str(), gx, gy, x, shared);
        kernel.run(words.data(), gx, gy, x, shared, order);
    });
    return OK;
}

static const std::map<int, std::pair<const char*, const char*>> WORDS = {
    {0, {"CUDA_SUCCESS", "no error"}}, {1, {"CUDA_ERROR_INVALID_VALUE", "invalid argument"}},
    {2, {"CUDA_ERROR_OUT_OF_MEMORY", "out of memory"}}, {100, {"CUDA_ERROR_NO_DEVICE", "no CUDA-capable device is detected"}},
    {200, {"CUDA_ERROR_INVALID_IMAGE", "device kernel image is invalid"}},
    {201, {"CUDA_ERROR_INVALID_CONTEXT", "invalid device context"}}, {500, {"CUDA_ERROR_NOT_FOUND", "named symbol not found"}},
    {701, {"CUDA_ERROR_LAUNCH_OUT_OF_RESOURCES", "too many resources requested for launch"}},
    {900, {"CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED", "operation not permitted when stream is capturing"}},
    {901, {"CUDA_ERROR_STREAM_CAPTURE_INVALIDATED", "operation failed due to a previous error during capture"}},
    {999, {"CUDA_ERROR_UNKNOWN", "unknown error"}}};
EXPORT Status cuGetErrorName(int status, const char** text) {
    auto found = WORDS.find(status);
    *text = found == WORDS.end() ? nullptr : found->second.first;
    return OK;
}
EXPORT Status cuGetErrorString(int status, const char** text) {
    auto found = WORDS.find(status);
    *text = found == WORDS.end() ? nullptr : found->second.second;
    return OK;
}
