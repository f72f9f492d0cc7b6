"""What a person sees and decides: MLflow, gates, champions, bundle, progress."""
