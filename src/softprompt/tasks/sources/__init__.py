"""Where examples come from: text files, folders, Parquet, Hugging Face data sets, packaged data sets."""
