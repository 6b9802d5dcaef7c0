"""What every route needs: binding, keys, problem documents, the services behind."""
