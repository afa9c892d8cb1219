#!/usr/bin/env python3
"""Compiles a kernel source for the emulator: compile.py SOURCE OUTPUT [-DNAME=VALUE...]

The source is preprocessed with device.h before it; each kernel that is left gets a function that the emulated driver calls.
What was compiled is kept in the temporary directory by its contents.
"""
import hashlib, os, re, shutil, subprocess, sys, tempfile

HERE = os.path.dirname(os.path.abspath(__file__))
FLAGS = ["-std=c++20", "-O2", "-w", "-fPIC", "-fno-strict-aliasing", "-ffp-contract=off", "-fvisibility=hidden", "-fno-gnu-unique"]


def main():
    source, output, defines = sys.argv[1], sys.argv[2], sys.argv[3:]
    include = ["-include", os.path.join(HERE, "device.h")]
    text = subprocess.run(["g++", *FLAGS, "-DHOST_EMULATOR", *defines, *include, "-E", "-x", "c++", source],
                          capture_output=True, text=True)
    if text.returncode != 0:
        sys.exit(text.stderr)
    text, kernels = exported(text.stdout)
    text += "\nbf16 to_bf16(float value) { bf16 rounded; rounded.bits = emu::f2b(value); return rounded; }\n"
    macro = open(os.path.join(HERE, "device.h")).read()
    text += macro[macro.index("#define EMULATED_EXPORT"):] + "\n"
    text += "".join(f"EMULATED_EXPORT({name}, {bound})\n" for name, bound in kernels)
    kept = os.path.join(tempfile.gettempdir(), "host-emulator-" + hashlib.sha256(text.encode()).hexdigest()[:24] + ".so")
    if not os.path.exists(kept):
        own = f"{kept}.{os.getpid()}"
        with tempfile.NamedTemporaryFile("w", suffix=".cpp") as file:
            file.write(text)
            file.flush()
            done = subprocess.run(["g++", *FLAGS, "-shared", "-o", own, file.name], capture_output=True, text=True)
        if done.returncode != 0:
            sys.exit(done.stderr)
        os.rename(own, kept)
    shutil.copyfile(kept, output)


def exported(text):
    """The text with kernels as functions, and their names with the most threads that a block of them has."""
    kernels, parts, at = [], [], 0
    for found in re.finditer(r"\bEMULATED_KERNEL\(", text):
        end, depth = found.end(), 1
        while depth:
            depth += {"(": 1, ")": -1}.get(text[end], 0)
            end += 1
        # Lines of the preprocessor may lie between.
        name = re.match(r'(?:\s|#[^\n]*\n)*(\w+)\s*\(', text[end:])
        kernels.append((name.group(1), text[found.end():end - 1]))
        parts += [text[at:found.start()], 'extern "C" void']
        at = end
    return "".join(parts) + text[at:], kernels


main()
