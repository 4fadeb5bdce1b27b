"""How long tests wait for what is promised by no time: a busy machine may need seconds to start a process."""

PATIENCE_S = 60.0
