# This bundle as a CMake package:
#
#   find_package(dgms CONFIG REQUIRED)       with -DCMAKE_PREFIX_PATH=THIS_BUNDLE or -Ddgms_DIR=THIS_BUNDLE/lib/cmake/dgms
#   target_link_libraries(mine PRIVATE dgms::image dgms::network)
#
#   dgms::network    libnetwork.so as it lies in the bundle; on ARM Linux with glibc only
#   dgms::sources    the same, compiled from its sources: for every other system and C library
#   dgms::image      image.h, from an image file to the network's input
#   dgms_WEIGHTS, dgms_LABELS, dgms_MANIFEST    the files that the program opens or reads
#
# Headers are "runtime/network.h" and "image.h".
get_filename_component(_dgms "${CMAKE_CURRENT_LIST_DIR}/../../.." ABSOLUTE)
set(dgms_WEIGHTS "${_dgms}/weights.blob")
set(dgms_LABELS "${_dgms}/labels.txt")
set(dgms_MANIFEST "${_dgms}/manifest.json")
enable_language(C)
include(CMakeFindDependencyMacro)
find_dependency(Threads)

if(CMAKE_SYSTEM_PROCESSOR MATCHES "^(aarch64|arm64|ARM64)$")
  set(_dgms_processor -march=@ARCHITECTURE@)
  if(CMAKE_SYSTEM_NAME STREQUAL "Linux" AND NOT TARGET dgms::network)
    add_library(dgms::network SHARED IMPORTED)
    set_target_properties(dgms::network PROPERTIES
      IMPORTED_LOCATION "${_dgms}/libnetwork.so" IMPORTED_SONAME libnetwork.so
      INTERFACE_INCLUDE_DIRECTORIES "${_dgms}")
  endif()
else()
  set(_dgms_processor)
endif()

if(NOT TARGET dgms::sources)
  file(GLOB _dgms_sources "${_dgms}/runtime/*.c")
  add_library(dgms_sources STATIC EXCLUDE_FROM_ALL ${_dgms_sources})
  # No contraction: a float result is two roundings, everywhere.
  target_compile_options(dgms_sources PRIVATE -std=c11 -O3 -ffp-contract=off -fno-math-errno ${_dgms_processor})
  set_target_properties(dgms_sources PROPERTIES POSITION_INDEPENDENT_CODE ON)
  target_include_directories(dgms_sources INTERFACE "${_dgms}")
  target_link_libraries(dgms_sources PUBLIC Threads::Threads m)
  add_library(dgms::sources ALIAS dgms_sources)

  add_library(dgms_image STATIC EXCLUDE_FROM_ALL "${_dgms}/image.c")
  target_compile_options(dgms_image PRIVATE -std=c11 -O2 -ffp-contract=off)
  set_target_properties(dgms_image PROPERTIES POSITION_INDEPENDENT_CODE ON)
  target_include_directories(dgms_image INTERFACE "${_dgms}")
  target_link_libraries(dgms_image PUBLIC m)
  add_library(dgms::image ALIAS dgms_image)
endif()
unset(_dgms)
unset(_dgms_sources)
unset(_dgms_processor)
