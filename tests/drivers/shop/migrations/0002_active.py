from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies = [("shop", "0001_initial")]
    operations = [
        migrations.AddField("Product", "active", models.BooleanField(default=True)),
        migrations.AddIndex("Product", models.Index(fields=["price"], name="product_price")),
        migrations.RunSQL("CREATE VIEW order_totals AS SELECT product_id, sum(quantity) AS total FROM shop_order GROUP BY 1",
                          "DROP VIEW order_totals"),
    ]
