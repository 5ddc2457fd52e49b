# A control of a kernel: its source with one bug, which the emulator, or the comparison of values,
# must find. The kernel itself stays free of it: the bug is one replacement in a copy, and a text that
# is no longer there exactly once is an error, so that a control cannot go stale.
#   tessera_kernel_control(gemm_missing_barrier KERNEL kernels/cuda/kernels/gemm.cu
#     FIND "__syncthreads();  // the stage is free" REPLACE "")
# makes the object library gemm_missing_barrier. The launchers of the copy are in a namespace of that
# name inside of tessera::cuda; a test declares the one that it calls:
#   namespace tessera::cuda::gemm_missing_barrier { cudaError_t LaunchGemm(...); }
function(tessera_kernel_control name)
  cmake_parse_arguments(PARSE_ARGV 1 ARG "" "KERNEL;FIND;REPLACE" "")
  set(source ${PROJECT_SOURCE_DIR}/${ARG_KERNEL})
  set_property(DIRECTORY APPEND PROPERTY CMAKE_CONFIGURE_DEPENDS ${source})
  file(READ ${source} text)
  foreach(find IN ITEMS "${ARG_FIND}" "\nnamespace tessera::cuda {\n")
    string(LENGTH "${text}" length)
    string(LENGTH "${find}" step)
    string(REPLACE "${find}" "" without "${text}")
    string(LENGTH "${without}" rest)
    math(EXPR times "(${length} - ${rest}) / ${step}")
    if(NOT times EQUAL 1)
      message(FATAL_ERROR "${name}: ${ARG_KERNEL} has ${times} times, not once: ${find}")
    endif()
  endforeach()
  string(REPLACE "${ARG_FIND}" "${ARG_REPLACE}" text "${text}")
  string(REPLACE "\nnamespace tessera::cuda {\n" "\nnamespace tessera::cuda::${name} {\n" text "${text}")
  set(copy ${CMAKE_CURRENT_BINARY_DIR}/controls/${name}.cu)
  file(GENERATE OUTPUT ${copy} CONTENT "${text}")
  tessera_emulated_kernels(${name} SRCS ${copy})
endfunction()
