"""The HTTP surface: routes, authentication, request bodies and answers. No rule of the domain is decided here."""
