"""Windows' own enrolment: policies by MS-XCEP, certificates by MS-WSTEP."""
