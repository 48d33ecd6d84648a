"""For all tests: collections are found the way Ansible finds them, from the first import on.

A plain `import ansible_collections.…` before this would hide the collections' plugins from every later test.
"""

from ansible.plugins.loader import init_plugin_loader

init_plugin_loader()
