"""Many trainings as one computation: stacked where their networks have one shape, and stepped together."""
