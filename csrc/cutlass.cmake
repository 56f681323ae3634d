# The sources that need CUTLASS's headers, for Hopper alone. CMakeLists.txt includes this where AMT_CUTLASS=on.
if(AMT_CUTLASS_DIR)
  set(where "${AMT_CUTLASS_DIR}")
else()
  execute_process(
    COMMAND "${Python_EXECUTABLE}" -c "import importlib.util as u, pathlib; \
s = u.find_spec('cutlass_library'); print(pathlib.Path(s.origin).parent.as_posix() + '/source' if s else '', end='')"
    OUTPUT_VARIABLE where)
endif()
set(CUTLASS_INCLUDE "CUTLASS_INCLUDE-NOTFOUND")
foreach(folder IN ITEMS "${where}/include" "${where}")
  if(where AND EXISTS "${folder}/cutlass/version.h")
    set(CUTLASS_INCLUDE "${folder}")
    break()
  endif()
endforeach()
if(NOT CUTLASS_INCLUDE)
  message(FATAL_ERROR "AMT_CUTLASS=on, but there are no headers of CUTLASS: "
    "`pip install --no-deps nvidia-cutlass`, or set AMT_CUTLASS_DIR to its repository")
endif()
file(STRINGS "${CUTLASS_INCLUDE}/cutlass/version.h" major REGEX "#define CUTLASS_MAJOR")
string(REGEX MATCH "[0-9]+" major "${major}")
if(major LESS 4)
  message(FATAL_ERROR "AMT_CUTLASS=on: CUTLASS 4 or later is needed, ${CUTLASS_INCLUDE} holds ${major}")
endif()

add_library(amt_cutlass OBJECT ${CUTLASS_SOURCES})
set_target_properties(amt_cutlass PROPERTIES CUDA_ARCHITECTURES OFF CUDA_STANDARD 20 CUDA_RUNTIME_LIBRARY Static)
target_link_libraries(amt_cutlass PRIVATE amt_flags)
target_include_directories(amt_cutlass SYSTEM PRIVATE "${CUTLASS_INCLUDE}")
target_compile_options(amt_cutlass PRIVATE
  -gencode=arch=compute_90a,code=sm_90a --expt-relaxed-constexpr -Xcompiler=-fvisibility=hidden)
target_link_libraries(amt_native PRIVATE amt_cutlass)
