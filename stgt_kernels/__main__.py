"""`python -m stgt_kernels` prints versions, how the kernels were built, and which backends can run here."""

from stgt_kernels.report import report

print(report())
