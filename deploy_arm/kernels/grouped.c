#if defined(__ARM_NEON)
#include "kernels.h"
void grouped_free(struct grouped *grouped) { (void)grouped; }
convolution_kernel grouped_convolution;
void grouped_convolution(const struct plan *plan, const int8_t *in, void *out, uint8_t *scratch) { portable_convolution(plan, in, out, scratch); }
#endif
