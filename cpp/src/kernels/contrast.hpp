// The steps of contrastive losses around the matrix products; see ContrastSteps.
#pragma once

#include "affekt/losses.hpp"
#include "dispatch.hpp"

namespace affekt {

struct ContrastKernels {
  ContrastSteps<float> floats;
  ContrastSteps<double> doubles;
};
AFFEKT_KERNELS(ContrastKernels, contrast)

}  // namespace affekt
