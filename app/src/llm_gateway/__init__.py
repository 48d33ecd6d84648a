"""What Ray Serve runs on the cluster: one application per model, and the gateway in front of them.

- ``llm_gateway.model:build`` builds the application of one model (``model-<slug>``, at ``/m/<slug>``).
- ``llm_gateway.gateway:build`` builds the gateway (``/``): health, the list of models, and direct ``/v1``.
- ``python -m llm_gateway`` checks, deploys and watches the Serve config file that names them.
"""
