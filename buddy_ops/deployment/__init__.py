"""What moves traffic: ``rollout_plan``, ``rollout``, ``rollback``, ``gradual_rollback``, ``feature_flags``,
``smoke_tests``, ``cleanup``,
``announcements``, ``observation``."""
