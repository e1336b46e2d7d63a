// Swagger UI over this node's own document. No validator badge: the page asks nobody else for anything.
window.onload = () => {
  SwaggerUIBundle({
    url: "/openapi.json",
    dom_id: "#document",
    deepLinking: true,
    docExpansion: "list",
    defaultModelsExpandDepth: 0,
    validatorUrl: null,
  });
};
