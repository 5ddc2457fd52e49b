# Compiles kernel sources with nvcc, where there is one (deploy/install-cuda.sh brings it; no GPU
# and no driver needed). TESSERA_NVCC: the compiler, or false; TESSERA_CUDA_ROOT: its toolkit.
option(TESSERA_CUDA "Compile the CUDA kernels for GPUs where nvcc is found" ON)

set(TESSERA_NVCC "")
if(TESSERA_CUDA AND NOT TESSERA_SANITIZE)  # sanitizers end at the host side of nvcc's objects
  set(cuda_folder "$ENV{TESSERA_CUDA_DIR}")
  if(NOT cuda_folder)
    set(cuda_folder "$ENV{HOME}/.cache/tessera/cuda-13.0")
  endif()
  set(cuda_bin toolkit/nvidia/cu13/bin tools/nvidia/cu13/bin)
  list(TRANSFORM cuda_bin PREPEND "${cuda_folder}/")
  find_program(TESSERA_NVCC_PROGRAM nvcc HINTS ${cuda_bin} PATHS /usr/local/cuda/bin)
  # They show the machine code to the tests.
  find_program(TESSERA_CUOBJDUMP cuobjdump HINTS ${cuda_bin} PATHS /usr/local/cuda/bin)
  find_program(TESSERA_NVDISASM nvdisasm HINTS ${cuda_bin} PATHS /usr/local/cuda/bin)
  if(TESSERA_NVCC_PROGRAM)
    file(REAL_PATH "${TESSERA_NVCC_PROGRAM}" TESSERA_NVCC)
    cmake_path(GET TESSERA_NVCC PARENT_PATH TESSERA_CUDA_ROOT)
    cmake_path(GET TESSERA_CUDA_ROOT PARENT_PATH TESSERA_CUDA_ROOT)
    find_path(TESSERA_CUDA_INCLUDE cuda_runtime.h
      HINTS ${TESSERA_CUDA_ROOT}/include ${TESSERA_CUDA_ROOT}/targets/x86_64-linux/include
      NO_DEFAULT_PATH REQUIRED)
    find_library(TESSERA_CUDART cudart_static
      HINTS ${TESSERA_CUDA_ROOT}/lib64 ${TESSERA_CUDA_ROOT}/lib
            ${TESSERA_CUDA_ROOT}/targets/x86_64-linux/lib
      NO_DEFAULT_PATH REQUIRED)
  endif()
endif()

# sm_80 code serves sm_86 and sm_89, too; later GPUs without code of their own compile its PTX when
# a program starts. -fmad=false is the -ffp-contract=off of the host: a * b + c rounds the same way
# on a GPU, in the emulator and on the CPU, and kernels that want a fused one say Fma.
set(TESSERA_NVCC_FLAGS
  -std=c++20 -O3 -fmad=false --expt-relaxed-constexpr -Werror all-warnings
  "-gencode=arch=compute_80,code=[sm_80,compute_80]" -gencode=arch=compute_90a,code=sm_90a
  -Xfatbin=-compress-all -Xcompiler=-fPIC,-Wall,-Wextra,-ffp-contract=off,-fno-omit-frame-pointer
  -I${PROJECT_SOURCE_DIR})

# One object per source with the code of all architectures; their paths go to `out`. ccache must not
# compare preprocessed sources (CCACHE_DEPEND): the text differs per architecture, and it sees one.
#   tessera_nvcc_objects(objects kernels/sample.cu kernels/gemm.cu)
function(tessera_nvcc_objects out)
  set(launcher "")
  if(CCACHE_PROGRAM)
    set(launcher ${CMAKE_COMMAND} -E env CCACHE_DEPEND=1 ${CCACHE_PROGRAM})
  endif()
  set(objects "")
  foreach(source IN LISTS ARGN)
    set(object ${CMAKE_CURRENT_BINARY_DIR}/nvcc/${source}.o)
    cmake_path(GET object PARENT_PATH folder)
    file(MAKE_DIRECTORY ${folder})
    add_custom_command(OUTPUT ${object}
      COMMAND ${launcher} ${TESSERA_NVCC} ${TESSERA_NVCC_FLAGS} -MD -MF ${object}.d -MT ${object}
              -c ${CMAKE_CURRENT_SOURCE_DIR}/${source} -o ${object}
      DEPENDS ${CMAKE_CURRENT_SOURCE_DIR}/${source}
      DEPFILE ${object}.d
      COMMENT "Compiling ${source} with nvcc"
      VERBATIM)
    list(APPEND objects ${object})
  endforeach()
  set(${out} ${objects} PARENT_SCOPE)
endfunction()
