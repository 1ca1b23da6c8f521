"""Many runs compared: what was measured of each, which claims hold, tables and figures of all."""
