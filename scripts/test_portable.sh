#!/bin/sh
# Runs the numerical tests with kernels for older instruction sets, and with one and three threads.
#   scripts/test_portable.sh [PYTEST_ARGUMENTS, instead of the list of tests below]
# This checks that the rounding bounds in tests/tolerance.py hold on other processors.
set -u
cd "$(dirname "$0")/.." || exit 1
python=${TEST_PYTHON:-.venv/bin/python}

# The tests whose results depend on rounding or on the order of summation.
numeric="tests/modules tests/selftest tests/placement tests/training tests/generation tests/recipes tests/internals tests/test_end_to_end.py
  tests/models/test_families.py tests/formats/test_convert.py tests/formats/test_gguf.py tests/formats/test_gguf_families.py
  tests/formats/test_hf_folder.py tests/formats/test_meta.py tests/formats/test_peft_adapter.py
  tests/formats/test_peft_embeddings.py"
[ $# -gt 0 ] || set -- -q -n 2 $numeric

capability() { "$python" -c 'import torch; print(torch.backends.cpu.get_cpu_capability())'; }
threads() { "$python" -c 'import torch; print(torch.get_num_threads())'; }

# The instruction sets of torch's kernels: "default" is SSE on x86 and NEON on Arm; the others exist only on x86.
native=$(capability) || exit 1
case $native in
  AVX*) kernels="default avx2" ;;
  *) kernels="default" ;;
esac
echo "test-portable: this processor ($(uname -m)) runs $native kernels; testing: $kernels, with 1 and 3 threads"

case $(uname -m) in
  x86_64 | amd64)
    export ONEDNN_MAX_CPU_ISA=AVX2  # oneDNN then uses neither AVX-512 nor AMX
    export MKL_CBWR=COMPATIBLE      # MKL then sums in the same order as on the oldest processors
    ;;
esac
export MKL_DYNAMIC=FALSE        # otherwise MKL, and therefore torch, limits the threads to the number of cores
export OMP_WAIT_POLICY=PASSIVE  # otherwise three threads on two cores spend their time in busy waiting

failed=
for kernel in $kernels; do
  for n in 1 3; do
    export ATEN_CPU_CAPABILITY="$kernel" OMP_NUM_THREADS="$n" MKL_NUM_THREADS="$n"
    environment="ATEN_CPU_CAPABILITY=$kernel OMP_NUM_THREADS=$n"
    echo "test-portable: $environment"
    if [ "$(threads)" != "$n" ]; then
      echo "test-portable: torch does not use $n threads on this machine" >&2
      failed="$failed [$environment]"
    elif ! "$python" -m pytest "$@"; then
      failed="$failed [$environment]"
    fi
  done
done
[ -z "$failed" ] || { echo "test-portable: failed with$failed" >&2; exit 1; }
echo "test-portable: passed in every environment"
