// The operators in double precision.
#include "operators.h"

namespace softmap {

SOFTMAP_OPERATORS(, double)

}  // namespace softmap
