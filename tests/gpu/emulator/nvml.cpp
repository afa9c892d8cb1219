// NVML's functions that are called, for the devices of driver.cpp.
#include <cstdio>
#include <cstdlib>
#include <cstring>

#define EXPORT extern "C" __attribute__((visibility("default")))
static unsigned devices() { const char* text = getenv("HOST_EMULATOR_DEVICES"); return text ? atoi(text) : 1; }
static unsigned long long memory() { const char* text = getenv("HOST_EMULATOR_MEMORY"); return text ? strtoull(text, 0, 10) : 4ull << 30; }

EXPORT int nvmlInit_v2() { return 0; }
EXPORT int nvmlShutdown() { return 0; }
EXPORT const char* nvmlErrorString(int status) { return status ? "Not Found" : "Success"; }
EXPORT int nvmlSystemGetDriverVersion(char* text, unsigned length) { snprintf(text, length, "550.54.15"); return 0; }
static void uuid(char* text, unsigned length, unsigned device) {
    snprintf(text, length, "GPU-%02x%02x%02x%02x-%02x%02x-%02x%02x-%02x%02x-%02x%02x%02x%02x%02x%02x", device, device, device, device,
             device, device, device, device, device, device, device, device, device, device, device, device);
}
EXPORT int nvmlDeviceGetHandleByUUID(const char* name, void** device) {
    for (unsigned i = 1; i <= devices(); i++) {
        char text[64];
        uuid(text, sizeof text, i);
        if (!strcmp(text, name)) { *device = (void*)(size_t)i; return 0; }
    }
    return 6;
}
EXPORT int nvmlDeviceGetName(void* device, char* text, unsigned length) { snprintf(text, length, "Emulated GPU %zu", (size_t)device - 1); return 0; }
EXPORT int nvmlDeviceGetUUID(void* device, char* text, unsigned length) { uuid(text, length, (unsigned)(size_t)device); return 0; }
EXPORT int nvmlDeviceGetMemoryInfo(void*, unsigned long long* sizes) { sizes[0] = memory(); sizes[2] = memory() / 16; sizes[1] = sizes[0] - sizes[2]; return 0; }
EXPORT int nvmlDeviceGetUtilizationRates(void*, unsigned* rates) { rates[0] = 7; rates[1] = 3; return 0; }
EXPORT int nvmlDeviceGetPowerUsage(void*, unsigned* milliwatts) { *milliwatts = 81000; return 0; }
EXPORT int nvmlDeviceGetEnforcedPowerLimit(void*, unsigned* milliwatts) { *milliwatts = 700000; return 0; }
EXPORT int nvmlDeviceGetTemperature(void*, int, unsigned* degrees) { *degrees = 34; return 0; }
