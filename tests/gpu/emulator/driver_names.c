// The names that NVIDIA's own libcudnn needs of a driver before it makes graphs ready: a libcuda.so.1 that holds everything to
// be well and does nothing. For the test that its graphs are accepted; nothing can be run with it.
static int handle(void **made) { *made = (void *)4096; return 0; }
static int nothing(void) { return 0; }
#define HANDLE(name) int name(void **made) { return handle(made); }
#define NOTHING(name) int name(void) { return nothing(); }
int cuDriverGetVersion(int *version) { *version = 13000; return 0; }
int cuDeviceGetCount(int *count) { *count = 1; return 0; }
int cuDeviceGet(int *device, int ordinal) { *device = ordinal; return 0; }
int cuGetErrorString(int error, const char **words) { (void)error; *words = "no driver"; return 0; }
int cuGetErrorName(int error, const char **words) { (void)error; *words = "no driver"; return 0; }
int cuKernelGetAttribute(int *value) { *value = 0; return 0; }
int cuFuncGetAttribute(int *value) { *value = 0; return 0; }
HANDLE(cuCtxGetCurrent) HANDLE(cuCtxPopCurrent_v2) HANDLE(cuCtxPopCurrent) HANDLE(cuKernelGetFunction) HANDLE(cuLibraryGetKernel)
HANDLE(cuLibraryLoadData) HANDLE(cuLibraryLoadFromFile) HANDLE(cuLinkCreate) HANDLE(cuModuleGetFunction) HANDLE(cuModuleLoadData)
HANDLE(cuStreamGetCtx)
NOTHING(cuCtxGetLimit) NOTHING(cuCtxPushCurrent) NOTHING(cuKernelSetAttribute) NOTHING(cuLaunchCooperativeKernel)
NOTHING(cuLaunchKernel) NOTHING(cuLaunchKernelEx) NOTHING(cuLibraryUnload) NOTHING(cuLinkAddData) NOTHING(cuLinkComplete)
NOTHING(cuLinkDestroy) NOTHING(cuModuleUnload) NOTHING(cuOccupancyMaxPotentialClusterSize) NOTHING(cuTensorMapEncodeIm2col)
NOTHING(cuTensorMapEncodeTiled)
