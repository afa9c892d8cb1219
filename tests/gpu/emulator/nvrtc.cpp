// NVRTC's functions that are called, by compile.py. An image is the size of a shared object, then the object.
#include <dlfcn.h>
#include <unistd.h>

#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <sstream>
#include <string>

#define EXPORT extern "C" __attribute__((visibility("default")))
struct Program { std::string source, image, log; };

static std::string read(const std::string& path) {
    std::ifstream file(path, std::ios::binary);
    std::stringstream text;
    text << file.rdbuf();
    return text.str();
}
static std::string own_directory() {
    Dl_info info;
    dladdr((void*)own_directory, &info);
    const std::string path = info.dli_fname;
    return path.substr(0, path.rfind('/'));
}

EXPORT int nvrtcVersion(int* major, int* minor) { *major = 12; *minor = 4; return 0; }
EXPORT int nvrtcCreateProgram(Program** program, const char* source, const char*, int headers, const char* const*, const char* const*) {
    *program = new Program{source, "", ""};
    return headers == 0 ? 0 : 3;
}
EXPORT int nvrtcCompileProgram(Program* program, int count, const char* const* options) {
    std::string defines;
    for (int i = 0; i < count; i++) {
        const std::string option = options[i];
        if (option.rfind("-D", 0) == 0) defines += " '" + option + "'";
        else if (option.rfind("--gpu-architecture=sm_", 0) && option.rfind("--std=", 0) && option != "-default-device") return 5;
    }
    char base[] = "/tmp/host-emulator-XXXXXX";
    const int file = mkstemp(base);
    if (file < 0) return 1;
    close(file);
    const std::string source = std::string(base) + ".cu", object = std::string(base) + ".so", log = std::string(base) + ".log";
    std::ofstream(source) << program->source;
    const int status = system(("python3 '" + own_directory() + "/compile.py' " + source + " " + object + defines + " > " + log + " 2>&1").c_str());
    program->log = read(log);
    const std::string bytes = read(object);
    const uint64_t size = bytes.size();
    program->image = std::string((const char*)&size, 8) + bytes;
    for (const std::string& path : {std::string(base), source, object, log}) unlink(path.c_str());
    return status == 0 && size ? 0 : 6;
}
EXPORT int nvrtcGetCUBINSize(Program* program, size_t* bytes) { *bytes = program->image.size(); return 0; }
EXPORT int nvrtcGetCUBIN(Program* program, char* image) { memcpy(image, program->image.data(), program->image.size()); return 0; }
EXPORT int nvrtcGetProgramLogSize(Program* program, size_t* bytes) { *bytes = program->log.size() + 1; return 0; }
EXPORT int nvrtcGetProgramLog(Program* program, char* log) { memcpy(log, program->log.c_str(), program->log.size() + 1); return 0; }
EXPORT int nvrtcDestroyProgram(Program** program) { delete *program; *program = nullptr; return 0; }
EXPORT const char* nvrtcGetErrorString(int status) {
    return status == 0 ? "NVRTC_SUCCESS" : status == 5 ? "NVRTC_ERROR_INVALID_OPTION" : status == 6 ? "NVRTC_ERROR_COMPILATION" : "NVRTC_ERROR";
}
