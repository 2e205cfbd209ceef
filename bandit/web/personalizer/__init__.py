"""The door for clients of Azure Personalizer, retired in October 2026: its routes over this service."""
