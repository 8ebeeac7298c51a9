"""What a person in JupyterLab sees and presses:
``approvals``, ``forms``, ``charts``, ``live``, ``controls``, ``progress``."""
