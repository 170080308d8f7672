"""Search spaces that ship with skdtune, one YAML a method; `skdtune.search NAME` runs one."""
