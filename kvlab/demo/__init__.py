"""How the bundled demo models, tokenizers, texts and sample results are made (kvlab.host.bundled names them)."""
