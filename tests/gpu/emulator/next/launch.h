// What a compiled kernel and the emulated driver know of each other. A kernel's source sees it through device.h, so that it
// needs no other header.
#pragma once

namespace host_emulator {

constexpr unsigned ABI = 1;
constexpr unsigned WARP = 32;

struct Index {
    unsigned x, y, z;
};

// A thread of the block that runs: a fiber. The operands are those of the collective that the thread has reached.
struct Thread {
    Index index;
    unsigned number;
    unsigned long long value;
    unsigned long long result;
    unsigned source;
    const void* operands[3];
};

// Does a collective for all lanes of `mask`, once they have reached it. `lanes` are the threads of the warp.
typedef void (*Work)(Thread* lanes, unsigned mask);

// What runs kernels. It is the driver's; a module has a pointer to it.
struct Machine {
    // The thread that runs now.
    Thread* thread;
    Index block, block_size, grid;
    // Dynamic shared memory of the block.
    unsigned char* dynamic;
    unsigned dynamic_bytes;
    void (*barrier)();
    void (*meet)(const char* what, unsigned mask, Work work);
    void (*copy)(void* shared, const void* global, bool valid);
    void (*commit)();
    void (*wait)(unsigned pending);
    // Ends the process, with the place, if 16 bytes are not in shared memory and aligned.
    void (*check_row)(const char* what, const void* row);
    void (*fail)(const char* what);
};

// A kernel, exported as `host_emulator_kernel_NAME`.
struct Kernel {
    const char* name;
    unsigned most_threads;
    unsigned parameters;
    const unsigned* parameter_bytes;
    // Runs the kernel as the thread that runs now. Each argument points to its bytes.
    void (*run)(void* const* arguments);
    // The kernel's static shared memory.
    unsigned char *shared, *shared_end;
};

// A compiled source, exported as `host_emulator_module`.
struct Module {
    unsigned abi;
    // Compute capability, times ten.
    unsigned architecture;
    Machine** machine;
    // Shared memory of functions that are no kernels.
    unsigned char *shared, *shared_end;
};

}
