"""Certificate authorities and the one pipeline that every enrolment goes through."""
