"""The answers, their files, verification and export."""
