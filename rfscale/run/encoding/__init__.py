"""Encoding pictures and captions to shards, once: what `rfscale encode` does. `rfscale.data.encoded` reads them."""
