"""Make the bundled demo models, tokenizers, texts and sample results (kvlab.host.bundled names them)."""
