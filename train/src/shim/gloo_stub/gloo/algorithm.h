// Not needed by what the shim calls; ProcessGroupGloo.hpp asks for the file.
#pragma once
