# Controls: copies of sources with one fault each, which a test must find. The fault is one replacement,
# and a text that is no longer there exactly once is an error, so that a control cannot go stale.

# Ends the configuration unless `text`, which is that of `file`, has `find` exactly once.
function(tessera_require_once name file text find)
  string(LENGTH "${text}" length)
  string(LENGTH "${find}" step)
  string(REPLACE "${find}" "" without "${text}")
  string(LENGTH "${without}" rest)
  math(EXPR times "(${length} - ${rest}) / ${step}")
  if(NOT times EQUAL 1)
    message(FATAL_ERROR "${name}: ${file} has ${times} times, not once: ${find}")
  endif()
endfunction()

# Sets `out` to the text of `file` (from the project's root) with the fault of the control `name`.
function(tessera_seed_fault out name file find replace)
  set(source ${PROJECT_SOURCE_DIR}/${file})
  set_property(DIRECTORY APPEND PROPERTY CMAKE_CONFIGURE_DEPENDS ${source})
  file(READ ${source} text)
  tessera_require_once(${name} ${file} "${text}" "${find}")
  string(REPLACE "${find}" "${replace}" text "${text}")
  set(${out} "${text}" PARENT_SCOPE)
endfunction()
