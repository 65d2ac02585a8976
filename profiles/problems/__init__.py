"""Problems as plain numbers."""
