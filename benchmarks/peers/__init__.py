"""The same work under other frameworks, each as its own documentation starts it."""
