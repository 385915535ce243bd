"""The engine behind HTTP: OpenAI's endpoints, classification, and the management of prompts."""
