# dsa_fast_find_wheel(<variable> <package>): the folder of an installed Python package, or an empty text. The Python is
# Python3_EXECUTABLE where that is set, otherwise the active environment's or the system's.
find_package(Python3 QUIET COMPONENTS Interpreter)

function(dsa_fast_find_wheel variable package)
  set(folder "")
  if(Python3_Interpreter_FOUND)
    execute_process(
      COMMAND ${Python3_EXECUTABLE} -c
        "import importlib.util as u; s = u.find_spec('${package}'); print(next(iter(s.submodule_search_locations or []), '') if s else '')"
      OUTPUT_VARIABLE folder OUTPUT_STRIP_TRAILING_WHITESPACE ERROR_QUIET)
  endif()
  set(${variable} "${folder}" PARENT_SCOPE)
endfunction()
