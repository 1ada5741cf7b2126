"""A sweep as a whole: launch it, mirror it to MLflow, show its progress, propose the next one."""
